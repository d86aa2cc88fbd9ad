// pg-boss's producer and worker: node pg_boss.mjs install|produce|work URL OPTIONS

import { PgBoss } from "pg-boss";
import { say, serve, Tally } from "./child.mjs";

const [role, connectionString, json] = process.argv.slice(2);
const { notify = false, ...options } = JSON.parse(json);
const QUEUE = "noop";
const group = ({ key }) => key && { id: key };

async function start(settings) {
  const boss = new PgBoss({ connectionString, useListenNotify: notify, ...settings });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
}

if (role === "install") {
  const boss = await start({});
  await boss.createQueue(QUEUE, { notify });
  await boss.stop();
} else if (role === "produce") {
  let boss;
  await serve({
    async connect(clients) {
      boss = await start({ max: clients, supervise: false, schedule: false });
      return (payload) => boss.send(QUEUE, payload, { group: group(payload) });
    },
    bulk: (payloads) =>
      boss.insert(QUEUE, payloads.map((data) => ({ data, group: group(data) }))),
  });
} else {
  const tally = new Tally();
  const boss = await start({});
  await boss.work(QUEUE, options, (jobs) => Promise.all(jobs.map((job) => tally.add(job.data))));
  say({ ready: true });
  process.on("SIGTERM", async () => {
    await boss.stop({ graceful: true, timeout: 5000 });
    process.exit(0);
  });
}
