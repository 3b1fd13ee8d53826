// postgres.js: prepared statements by default, several queries in flight on one connection, Flush without Sync for cursors.

import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import postgres from "postgres";

import { failure, run, settle } from "./stage.mjs";

const connected = async (url, options, work) => {
    const notices = [];
    const sql = postgres(url, { max: 1, onnotice: (notice) => notices.push([notice.severity, notice.message]), ...options });
    try {
        return await work(sql, notices);
    } finally {
        await sql.end({ timeout: 5 });
    }
};

const shown = (result) => ({ command: result.command, count: result.count, columns: result.columns?.map((column) => [column.name, column.type]), rows: [...result] });

async function reads(url) {
    return connected(url, {}, async (sql) => {
        const seen = [];
        for (const key of [1, 2, 1, 2]) {
            seen.push([...(await sql`SELECT name FROM item WHERE id = ${key}`)]);
            seen.push([...(await sql.unsafe(`SELECT price FROM item WHERE id = ${key}`))]);
        }
        return seen;
    });
}

async function prepared(url) {
    return connected(url, {}, async (sql) => {
        const seen = [];
        for (const key of [1, 2, 1, 99, 2]) {
            seen.push(shown(await sql`SELECT * FROM item WHERE id = ${key}`));
            seen.push([...(await sql`SELECT name FROM item WHERE id IN ${sql([key, 3])} ORDER BY id`)]);
        }
        seen.push(shown(await sql`INSERT INTO note ${sql([{ item_id: 1, body: "a" }, { item_id: 2, body: null }])} RETURNING item_id, body`));
        seen.push(shown(await sql`UPDATE item SET ${sql({ name: "new", price: 3 })} WHERE id = ${1}`));
        seen.push([...(await sql`SELECT * FROM item WHERE id = ${1}`)]);
        await sql`ALTER TABLE item ADD COLUMN more text DEFAULT 'more'`;
        seen.push(await settle(sql`SELECT * FROM item WHERE id = ${1}`));
        const described = await sql`SELECT id, name FROM item WHERE id = ${1}`.describe();
        seen.push([described.types, described.columns.map((column) => column.name)]);
        seen.push((await sql`SELECT name FROM item WHERE id = ${2}`.values()).flat());
        seen.push((await sql`SELECT id, name FROM item WHERE id = ${2}`.raw()).map((row) => row.map(String)));
        return seen;
    });
}

async function unprepared(url) {
    return connected(url, { prepare: false, fetch_types: false }, async (sql) => {
        const seen = [];
        for (const key of [1, 2, 1, 2]) seen.push(shown(await sql`SELECT * FROM item WHERE id = ${key}`));
        seen.push([...(await sql`SELECT count(*) FROM pg_prepared_statements`)]);
        return seen;
    });
}

async function simple(url) {
    return connected(url, {}, async (sql) => {
        const seen = [];
        seen.push((await sql.unsafe("SELECT 1 AS one; UPDATE item SET name = 'x' WHERE id < 3; SELECT 'b' AS b")).map(shown));
        seen.push(shown(await sql`SELECT name FROM item WHERE id = 1`.simple()));
        seen.push(shown(await sql`SELECT name FROM item WHERE id = 1`.simple()));
        seen.push(await settle(sql`SELECT 1; SELECT 1/0; SELECT 2`.simple()));
        seen.push(shown(await sql.unsafe("SELECT name FROM item WHERE id = $1", [1])));
        seen.push(shown(await sql.unsafe("SELECT name FROM item WHERE id = $1", [1], { prepare: true })));
        return seen;
    });
}

async function types(url) {
    return connected(url, {}, async (sql) => {
        const row = {
            i2: -7,
            i8: "1099511627776",
            f8: 0.1,
            n: "123456789.987654321",
            b: true,
            t: "snow \u2603 ' \\",
            by: Buffer.from([0, 1, 255]),
            d: new Date(Date.UTC(2024, 1, 29)),
            ts: new Date(Date.UTC(2024, 1, 29, 12, 30, 15, 123)),
            u: "12345678-1234-5678-1234-567812345678",
            j: sql.json({ a: [1, null] }),
            ia: [1, 2, 3],
            ta: ["a,b", 'c"'],
        };
        await sql`INSERT INTO typed ${sql(row)}`;
        await sql`INSERT INTO typed (i2) VALUES (${null})`;
        const seen = [];
        for (let round = 0; round < 2; round += 1) {
            seen.push(shown(await sql`SELECT * FROM typed`));
            seen.push(shown(await sql`SELECT i2 FROM typed WHERE ia = ${[1, 2, 3]} AND j = ${sql.json({ a: [1, null] })}`));
        }
        return seen;
    });
}

async function pipelined(url) {
    return connected(url, {}, async (sql) => {
        const many = Array.from({ length: 40 }, (_, n) => sql`SELECT id, name FROM item WHERE id = ${1 + (n % 20)}`);
        const mixed = [
            sql`INSERT INTO note (item_id, body) VALUES (${1}, ${"first"})`,
            sql`SELECT count(*) FROM note`,
            sql`SELECT 1/(${1}::int - 1)`,
            sql`SELECT name FROM item WHERE id = ${2}`,
            sql`SELECT * FROM missing`,
            sql.unsafe("SELECT 1 AS one; SELECT 2 AS two"),
            sql`SELECT body FROM note WHERE item_id = ${1}`,
        ];
        return Promise.all([...many, ...mixed].map(settle));
    });
}

async function cursors(url) {
    return connected(url, {}, async (sql) => {
        const seen = [];
        for (let round = 0; round < 2; round += 1) {
            for await (const rows of sql`SELECT id, name FROM item WHERE id > ${round} ORDER BY id`.cursor(7)) seen.push([...rows]);
            for await (const [row] of sql`SELECT id FROM item ORDER BY id`.cursor()) {
                seen.push(row.id);
                if (row.id === 4) break;
            }
            await sql`SELECT id FROM item ORDER BY id`.cursor(5, (rows) => {
                seen.push(rows.map((row) => row.id));
                return rows[0].id > 5 ? sql.CLOSE : undefined;
            });
            await sql`SELECT name FROM item WHERE id < ${4} ORDER BY id`.forEach((row) => seen.push(row.name));
        }
        try {
            for await (const rows of sql`SELECT 1/(id - 5) AS x FROM item ORDER BY id`.cursor(2)) seen.push([...rows]);
        } catch (error) {
            seen.push(failure(error));
        }
        seen.push([...(await sql`SELECT name FROM item WHERE id = ${1}`)]);
        return seen;
    });
}

async function copy(url) {
    return connected(url, {}, async (sql) => {
        const seen = [];
        const lines = Array.from({ length: 5000 }, (_, n) => `${1 + (n % 20)}\tline ${n}\n`);
        await pipeline(Readable.from(lines), await sql`COPY note (item_id, body) FROM STDIN`.writable());
        seen.push([...(await sql`SELECT count(*), max(body) FROM note`)]);
        // less than the stream's buffer: postgres.js may stop for good when it has to wait for the reader
        const chunks = [];
        for await (const chunk of await sql`COPY (SELECT item_id, body FROM note ORDER BY id LIMIT 500) TO STDOUT`.readable()) chunks.push(chunk);
        seen.push(Buffer.concat(chunks).toString("latin1"));
        seen.push([...(await sql`SELECT count(*) FROM item`)]);
        return seen;
    });
}

async function transactions(url) {
    return connected(url, { max: 3 }, async (sql) => {
        const seen = [];
        const count = async (inner) => seen.push([...(await inner`SELECT count(*), max(body) FROM note`)]);
        await count(sql);
        await sql.begin(async (outer) => {
            await outer`INSERT INTO note (item_id, body) VALUES (1, 'one')`;
            await count(outer);
            seen.push(await settle(outer.savepoint(async (inner) => {
                await inner`INSERT INTO note (item_id, body) VALUES (2, 'two')`;
                await count(inner);
                await inner`INSERT INTO item VALUES (1)`;
            })));
            await count(outer);
        });
        await count(sql);
        seen.push(await settle(sql.begin("ISOLATION LEVEL SERIALIZABLE READ ONLY", (inner) => inner`DELETE FROM note`)));
        seen.push(await settle(sql.begin((inner) => [inner`DELETE FROM note`, inner`SELECT 1/0`])));
        seen.push(await settle(sql.begin((inner) => inner`INSERT INTO note (item_id) VALUES (1000)`)));
        const reserved = await sql.reserve();
        await reserved`BEGIN`;
        await reserved`DELETE FROM note`;
        await count(reserved);
        await reserved`ROLLBACK`;
        reserved.release();
        await count(sql);
        return seen;
    });
}

async function listen(url) {
    return connected(url, {}, async (sql, notices) => {
        const heard = [];
        let done;
        const both = new Promise((resolve) => { done = resolve; });
        const { unlisten } = await sql.listen("radio", (payload) => {
            heard.push(payload);
            if (heard.length === 2) done();
        });
        await sql.notify("radio", "one");
        await sql`SELECT pg_notify('radio', ${"two"})`;
        await both;
        await unlisten();
        await sql`DO $$ BEGIN RAISE NOTICE 'a notice'; END $$`;
        return { heard, notices };
    });
}

async function cancel(url) {
    return connected(url, {}, async (sql) => connected(url, {}, async (observer) => {
        const seen = [];
        const [{ pid }] = await sql`SELECT pg_backend_pid() AS pid`;
        const sleeping = sql`SELECT pg_sleep(60)`;
        const answer = settle(sleeping);
        for (let left = 4000; left > 0; left -= 1) {
            const found = await observer`SELECT 1 FROM pg_stat_activity WHERE pid = ${pid} AND wait_event = 'PgSleep'`;
            if (found.count === 1) break;
        }
        sleeping.cancel();
        seen.push(await answer);
        seen.push([...(await sql`SELECT name FROM item WHERE id = ${1}`)]);
        return seen;
    }));
}

async function largeObjects(url) {
    return connected(url, { max: 2 }, async (sql) => {
        const seen = [];
        const large = await sql.largeObject();
        await large.write(Buffer.from("0123456789".repeat(1000)));
        seen.push([...(await large.seek(9990)), ...(await large.read(20))]);
        seen.push([...(await large.size())]);
        await large.close();
        return seen;
    });
}

async function errors(url) {
    return connected(url, {}, async (sql) => {
        const seen = [];
        for (const text of ["SELEC 1", "SELECT * FROM missing", "INSERT INTO item VALUES (1)", "SELECT 1/(id - 10) FROM item ORDER BY id"]) {
            seen.push(await settle(sql.unsafe(text)));
            seen.push([...(await sql`SELECT name FROM item WHERE id = ${1}`)]);
        }
        seen.push(await settle(sql`SELECT ${"x"}::int`));
        const wrong = postgres(url, { password: "wrong", max: 1 });
        seen.push(await settle(wrong`SELECT 1`));
        await wrong.end();
        return seen;
    });
}

await run([reads, prepared, unprepared, simple, types, pipelined, cursors, copy, transactions, listen, cancel, largeObjects, errors]);
