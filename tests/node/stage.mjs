// Runs programs at one place and prints what they saw, as JSON: {program: what it saw}.
//
//     node pg.mjs URL SETUP
//
// SETUP is the SQL that makes the tables as every program finds them. A program is an async function of the URL; process
// numbers and ports are not part of what it returns. The caller runs it in several places and compares. Without SETUP the
// tables are left as they are, and only the program `reads` is run.

import pg from "pg";

export const settle = async (promise) => {
    try {
        return await promise;
    } catch (error) {
        return failure(error);
    }
};

export const failure = (error) => ({
    name: error.name,
    code: error.code,
    message: error.message,
    severity: error.severity,
    detail: error.detail,
    position: error.position,
    constraint: error.constraint ?? error.constraint_name,
    table: error.table ?? error.table_name,
});

export const run = async (programs) => {
    const [url, setup] = process.argv.slice(2);
    const seen = {};
    for (const program of programs) {
        if (setup !== undefined) {
            const client = new pg.Client({ connectionString: url });
            await client.connect();
            await client.query(setup);
            await client.end();
        } else if (program.name !== "reads") {
            continue;
        }
        seen[program.name] = await program(url);
    }
    process.stdout.write(JSON.stringify(seen));
};
