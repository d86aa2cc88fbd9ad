// graphile-worker's producer and worker: node graphile_worker.mjs produce|work URL OPTIONS

import { consoleLogFactory, Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { say, serve, Tally } from "./child.mjs";

const [role, connectionString, json] = process.argv.slice(2);
const options = JSON.parse(json);
const logger = new Logger((scope) => {
  const log = consoleLogFactory(scope);
  return (level, message) => level === "error" && log(level, message);
});

if (role === "install") {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  await utils.release();
} else if (role === "produce") {
  let utils;
  await serve({
    async connect(clients) {
      const pgPool = new pg.Pool({ connectionString, max: clients });
      utils = await makeWorkerUtils({ pgPool, logger });
      return (payload) => utils.addJob("noop", payload);
    },
    bulk: (payloads) =>
      utils.addJobs(payloads.map((payload) => ({ identifier: "noop", payload }))),
  });
} else {
  const tally = new Tally();
  const runner = await run({
    connectionString,
    logger,
    noHandleSignals: true,
    taskList: { noop: (payload) => tally.add(payload) },
    ...(options.localQueue ? { preset: { worker: options } } : options),
  });
  say({ ready: true });
  process.on("SIGTERM", async () => {
    await runner.stop();
    process.exit(0);
  });
}
