// Asks one question as often as it is told to: for each line on standard input it prints the rows, as JSON.
//
//     node hits.mjs URL MODE
//
// The modes are the ways in which node-postgres, its pool and postgres.js can ask.

import { createInterface } from "node:readline";

import pg from "pg";
import postgres from "postgres";

const [url, mode] = process.argv.slice(2);
const TEXT = "SELECT id, name FROM item WHERE id = $1";
const LITERAL = "SELECT id, name FROM item WHERE id = 3";

const client = () => new pg.Client({ connectionString: url, statement_timeout: 60000 });

const modes = {
    "pg simple": async () => {
        const connected = client();
        await connected.connect();
        return [async () => (await connected.query(LITERAL)).rows, () => connected.end()];
    },
    "pg unnamed": async () => {
        const connected = client();
        await connected.connect();
        return [async () => (await connected.query(TEXT, [3])).rows, () => connected.end()];
    },
    "pg named": async () => {
        const connected = client();
        await connected.connect();
        return [async () => (await connected.query({ name: "by id", text: TEXT, values: [3] })).rows, () => connected.end()];
    },
    "pg binary": async () => {
        const connected = new pg.Client({ connectionString: url, binary: true });
        await connected.connect();
        return [async () => (await connected.query(TEXT, [3])).rows, () => connected.end()];
    },
    "pg-pool": async () => {
        const pool = new pg.Pool({ connectionString: url, max: 2 });
        return [async () => (await pool.query(TEXT, [3])).rows, () => pool.end()];
    },
    "postgres.js": async () => {
        const sql = postgres(url, { max: 1 });
        return [async () => [...(await sql`SELECT id, name FROM item WHERE id = ${3}`)], () => sql.end()];
    },
    "postgres.js unprepared": async () => {
        const sql = postgres(url, { max: 1, prepare: false });
        return [async () => [...(await sql`SELECT id, name FROM item WHERE id = ${3}`)], () => sql.end()];
    },
    "postgres.js simple": async () => {
        const sql = postgres(url, { max: 1 });
        return [async () => [...(await sql.unsafe(LITERAL).simple())], () => sql.end()];
    },
};

const [ask, end] = await modes[mode]();
for await (const _ of createInterface({ input: process.stdin })) {
    process.stdout.write(JSON.stringify((await ask()).map((row) => [row.id, row.name])) + "\n");
}
await end();
