// Both drivers with TLS: `node tls.mjs URL [CA]`. With CA the server's certificate and its host name are verified.

import { readFileSync } from "node:fs";

import pg from "pg";
import postgres from "postgres";

const [url, ca] = process.argv.slice(2);
const ssl = ca ? { ca: readFileSync(ca, "utf8") } : false;

const byPg = async () => {
    const client = new pg.Client({ connectionString: url, ssl });
    try {
        await client.connect();
        const { rows } = await client.query("SELECT $1::int * 7 AS answer, session_user::text AS name", [6]);
        return { ...rows[0], encrypted: Boolean(client.connection.stream.encrypted) };
    } catch (error) {
        return { code: error.code, message: error.message };
    } finally {
        await client.end();
    }
};

const byPostgres = async () => {
    const sql = postgres(url, { max: 1, ssl });
    try {
        const [row] = await sql`SELECT ${6}::int * 7 AS answer, session_user::text AS name`;
        return { ...row };
    } catch (error) {
        return { code: error.code, message: error.message };
    } finally {
        await sql.end({ timeout: 5 });
    }
};

console.log(JSON.stringify([await byPg(), await byPostgres()]));
