// node-postgres (pg), with pg-cursor, pg-query-stream and pg-copy-streams.

import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import pg from "pg";
import copyStreams from "pg-copy-streams";
import Cursor from "pg-cursor";
import QueryStream from "pg-query-stream";

import { failure, run, settle } from "./stage.mjs";

const connected = async (url, options, work) => {
    const client = new pg.Client({ connectionString: url, ...options });
    await client.connect();
    try {
        return await work(client);
    } finally {
        await client.end();
    }
};

const shown = (result) =>
    Array.isArray(result)
        ? result.map(shown)
        : { command: result.command, count: result.rowCount, rows: result.rows, fields: result.fields.map((field) => [field.name, field.dataTypeID, field.dataTypeModifier, field.format]) };

const until = async (question) => {
    for (let left = 4000; left > 0; left -= 1) {
        if (await question()) return;
        await new Promise((resolve) => setTimeout(resolve, 5));
    }
    throw new Error("never came true");
};

async function reads(url) {
    return connected(url, {}, async (client) => {
        const seen = [];
        for (const key of [1, 2, 1, 2]) {
            seen.push((await client.query("SELECT name FROM item WHERE id = $1", [key])).rows);
            seen.push((await client.query({ name: "named", text: "SELECT id, name FROM item WHERE id = $1", values: [key] })).rows);
            seen.push((await client.query(`SELECT price FROM item WHERE id = ${key}`)).rows);
        }
        return seen;
    });
}

async function simple(url) {
    return connected(url, {}, async (client) => {
        const seen = [];
        for (const key of [1, 2, 1, 2]) seen.push(shown(await client.query(`SELECT * FROM item WHERE id = ${key}`)));
        seen.push(shown(await client.query("SELECT 1 AS one; UPDATE item SET name = 'x' WHERE id < 3; SELECT 'b' AS b")));
        seen.push(shown(await client.query("")));
        seen.push(shown(await client.query("SELECT name FROM item WHERE id = 1")));
        seen.push(await settle(client.query("SELECT 1; SELECT 1/0; SELECT 2")));
        return seen;
    });
}

async function parameters(url) {
    return connected(url, {}, async (client) => {
        const seen = [];
        for (const key of [1, 2, 1, 2]) {
            seen.push(shown(await client.query("SELECT id, name, price FROM item WHERE id = $1", [key])));
            seen.push((await client.query({ text: "SELECT name, id FROM item WHERE id = $1", values: [key], rowMode: "array" })).rows);
            seen.push((await client.query({ text: "SELECT id FROM item WHERE id = $1", values: [key], binary: true })).rows);
        }
        const values = [-7, "1099511627776", 0.1, "123456789.987654321", true, "snow \u2603 ' \\", Buffer.from([0, 1, 255]), "2024-02-29"];
        const columns = "i2, i8, f8, n, b, t, by, d";
        const places = values.map((_, index) => `$${index + 1}`).join(", ");
        await client.query(`INSERT INTO typed (${columns}) VALUES (${places})`, values);
        await client.query(`INSERT INTO typed (${columns}) VALUES (${places})`, values.map(() => null));
        await client.query("UPDATE typed SET j = $1, ia = $2, ta = $3, ts = $4, u = $5, r = $6", [
            { a: [1, null] },
            [1, null, 3],
            ["a,b", 'c"'],
            new Date(Date.UTC(2024, 1, 29, 12, 30, 15, 123)),
            "12345678-1234-5678-1234-567812345678",
            "[1,5)",
        ]);
        for (let round = 0; round < 2; round += 1) {
            seen.push(shown(await client.query("SELECT * FROM typed")));
            seen.push(shown(await client.query("SELECT i2, b, t FROM typed WHERE ta = $1", [["a,b", 'c"']])));
        }
        return seen;
    });
}

async function named(url) {
    return connected(url, {}, async (client) => {
        const seen = [];
        for (const key of [1, 2, 1, 99, 2]) {
            seen.push((await client.query({ name: "by_id", text: "SELECT * FROM item WHERE id = $1", values: [key] })).rows);
            seen.push((await client.query({ name: "names", text: "SELECT name FROM item WHERE id > $1 ORDER BY id", values: [key] })).rows);
        }
        seen.push(await settle(client.query({ name: "broken", text: "SELECT * FROM missing WHERE id = $1", values: [1] })));
        seen.push(await settle(client.query({ name: "by_id", text: "SELECT 'another text'", values: [] })));
        await client.query("ALTER TABLE item ADD COLUMN more text DEFAULT 'more'");
        seen.push(await settle(client.query({ name: "by_id", text: "SELECT * FROM item WHERE id = $1", values: [1] })));
        seen.push((await client.query("SELECT name FROM pg_prepared_statements ORDER BY name")).rows);
        return seen;
    });
}

async function cursor(url) {
    return connected(url, {}, async (client) => {
        const seen = [];
        for (let round = 0; round < 2; round += 1) {
            const walker = client.query(new Cursor("SELECT id, name FROM item WHERE id > $1 ORDER BY id", [round]));
            seen.push(await walker.read(3));
            seen.push(await walker.read(5));
            await walker.close();
            const all = client.query(new Cursor("SELECT id FROM item ORDER BY id"));
            for (;;) {
                const rows = await all.read(7);
                seen.push(rows);
                if (rows.length === 0) break;
            }
            await all.close();
        }
        seen.push(await settle(client.query(new Cursor("SELECT 1/(id - 5) FROM item ORDER BY id")).read(10)));
        seen.push((await client.query("SELECT name FROM item WHERE id = 1")).rows);
        return seen;
    });
}

async function stream(url) {
    return connected(url, {}, async (client) => {
        const seen = [];
        for (let round = 0; round < 2; round += 1) {
            const rows = [];
            const query = new QueryStream("SELECT n FROM generate_series(1, $1::int) n", [2500], { batchSize: 100 });
            for await (const row of client.query(query)) rows.push(row.n);
            seen.push([rows.length, rows.at(-1)]);
            for await (const row of client.query(new QueryStream("SELECT id FROM item ORDER BY id", [], { batchSize: 2 }))) {
                seen.push(row.id);
                if (row.id === 5) break;
            }
            try {
                for await (const row of client.query(new QueryStream("SELECT 1/(id - 3) AS x FROM item ORDER BY id"))) seen.push(row);
            } catch (error) {
                seen.push(failure(error));
            }
        }
        seen.push((await client.query("SELECT count(*) FROM item")).rows);
        return seen;
    });
}

async function copy(url) {
    return connected(url, {}, async (client) => {
        const seen = [];
        const lines = Array.from({ length: 5000 }, (_, n) => `${1 + (n % 20)}\tline ${n}\n`);
        const into = client.query(copyStreams.from("COPY note (item_id, body) FROM STDIN"));
        await pipeline(Readable.from(lines), into);
        seen.push(into.rowCount);
        const chunks = [];
        for await (const chunk of client.query(copyStreams.to("COPY (SELECT item_id, body FROM note ORDER BY id) TO STDOUT"))) chunks.push(chunk);
        seen.push(Buffer.concat(chunks).toString("latin1"));
        const broken = client.query(copyStreams.from("COPY item (id, name) FROM STDIN"));
        seen.push(await settle(pipeline(Readable.from(["500\tfine\n", "no number\tx\n", "501\tafter\n"]), broken)));
        const given = client.query(copyStreams.from("COPY item (id, name) FROM STDIN"));
        const source = Readable.from((async function* () {
            yield "500\tfine\n";
            throw new Error("the program gives up");
        })());
        seen.push(await settle(pipeline(source, given)));
        seen.push((await client.query("SELECT count(*) FROM item")).rows);
        return seen;
    });
}

async function listen(url) {
    return connected(url, {}, async (client) => {
        const heard = [];
        const notices = [];
        client.on("notification", (message) => heard.push([message.channel, message.payload]));
        client.on("notice", (notice) => notices.push([notice.severity, notice.message]));
        await client.query("LISTEN radio");
        await client.query("NOTIFY radio, 'to myself'");
        await connected(url, {}, (other) => other.query("SELECT pg_notify('radio', $1)", ["while idle"]));
        await until(() => heard.length === 2);
        await client.query("DO $$ BEGIN RAISE NOTICE 'a notice'; END $$");
        await client.query("UNLISTEN *");
        return { heard, notices };
    });
}

async function transactions(url) {
    return connected(url, {}, async (client) => {
        const seen = [];
        const count = async () => seen.push((await client.query("SELECT count(*), max(body) FROM note")).rows);
        await count();
        await client.query("BEGIN");
        await client.query("INSERT INTO note (item_id, body) VALUES ($1, $2)", [1, "one"]);
        await count();
        await client.query("SAVEPOINT s");
        seen.push(await settle(client.query("INSERT INTO item VALUES ($1)", [1])));
        seen.push(await settle(client.query("SELECT count(*) FROM note")));
        await client.query("ROLLBACK TO SAVEPOINT s");
        await count();
        await client.query("COMMIT");
        await count();
        await client.query("BEGIN; INSERT INTO note (item_id, body) VALUES (1, 'two')");
        await count();
        await client.query("ROLLBACK");
        await count();
        await client.query("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY");
        seen.push(await settle(client.query("DELETE FROM note")));
        seen.push(shown(await client.query("ROLLBACK")).command);
        await client.query("BEGIN");
        await client.query("INSERT INTO note (item_id) VALUES (1000)");
        seen.push(await settle(client.query("COMMIT")));
        await count();
        return seen;
    });
}

async function errors(url) {
    return connected(url, {}, async (client) => {
        const seen = [];
        for (const [text, values] of [
            ["SELEC 1"],
            ["SELECT * FROM missing"],
            ["SELECT * FROM missing WHERE id = $1", [1]],
            ["SELECT $1::int", ["x"]],
            ["SELECT 1/(id - 10) FROM item ORDER BY id"],
            ["INSERT INTO item VALUES ($1)", [1]],
            ["SELECT $1", []],
        ]) {
            seen.push(await settle(client.query(text, values)));
            seen.push((await client.query("SELECT name FROM item WHERE id = $1", [1])).rows);
        }
        const wrong = new pg.Client({ connectionString: url.replace(/:[^:@]*@/, ":wrong@") });
        seen.push(await settle(wrong.connect()));
        await wrong.end();
        const nowhere = new pg.Client({ connectionString: url.replace(/\/[^/]*$/, "/no_such_database") });
        seen.push((await settle(nowhere.connect())).code);
        await nowhere.end();
        return seen;
    });
}

async function cancel(url) {
    return connected(url, {}, async (client) => connected(url, {}, async (observer) => {
        const seen = [];
        const sleeping = client.query("SELECT pg_sleep(60)");
        const answer = settle(sleeping);
        const asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
        await until(async () => (await observer.query(asleep, [client.processID])).rowCount === 1);
        await new Promise((resolve, reject) => {
            const messenger = new pg.Connection({});
            const { host, port } = client;
            messenger.connect(port, host);
            messenger.on("connect", () => messenger.cancel(client.processID, client.secretKey));
            messenger.on("end", resolve);
            messenger.on("error", reject);
        });
        seen.push(await answer);
        seen.push((await client.query("SELECT name FROM item WHERE id = 1")).rows);
        await client.query("SET statement_timeout = 20");
        seen.push(await settle(client.query("SELECT pg_sleep($1)", [60])));
        seen.push((await client.query("SELECT name FROM item WHERE id = 1")).rows);
        return seen;
    }));
}

async function pipelined(url) {
    return connected(url, { pipeline: true }, async (client) => {
        const many = Array.from({ length: 40 }, (_, n) => client.query("SELECT id, name FROM item WHERE id = $1", [1 + (n % 20)]));
        const mixed = [
            client.query("INSERT INTO note (item_id, body) VALUES ($1, $2)", [1, "first"]),
            client.query("SELECT count(*) FROM note"),
            client.query({ name: "fails", text: "SELECT 1/($1::int - 1)", values: [1] }),
            client.query("SELECT name FROM item WHERE id = $1", [2]),
            client.query({ name: "again", text: "SELECT body FROM note WHERE item_id = $1", values: [1] }),
            client.query("SELECT * FROM missing"),
            client.query({ name: "again", text: "SELECT body FROM note WHERE item_id = $1", values: [1] }),
            client.query(""),
        ];
        const answers = await Promise.all([...many, ...mixed].map(settle));
        return answers.map((answer) => (answer.name === "error" ? answer : answer.rows));
    });
}

async function pool(url) {
    const clients = new pg.Pool({ connectionString: url, max: 3 });
    const asked = Array.from({ length: 60 }, (_, n) => clients.query("SELECT id, name FROM item WHERE id = $1", [1 + (n % 20)]));
    const seen = (await Promise.all(asked)).map((result) => result.rows[0]);
    const client = await clients.connect();
    await client.query("BEGIN");
    await client.query("UPDATE item SET name = 'pooled' WHERE id = 1");
    await client.query("COMMIT");
    client.release();
    seen.push((await clients.query("SELECT name FROM item WHERE id = $1", [1])).rows);
    await clients.end();
    return seen;
}

await run([reads, simple, parameters, named, cursor, stream, copy, listen, transactions, errors, cancel, pipelined, pool]);
