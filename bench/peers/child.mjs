// The inside of a contestant's process: what child.py is, for Node.

import { createInterface } from "node:readline";

const PERIOD = 50; // milliseconds between two lines of a worker

export const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const now = () => Number(process.hrtime.bigint());
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Count what the handlers of this process have seen, and report it.
export class Tally {
  count = 0;
  started = [];

  constructor() {
    let said = -1;
    setInterval(() => {
      if (this.count === said) return;
      said = this.count;
      say({ n: said, t: now(), started: this.started });
      this.started = [];
    }, PERIOD);
  }

  // Note that a handler began; return what it shall wait for, if anything.
  add(payload) {
    if (payload.i >= 0) this.started.push([payload.i, now()]);
    this.count += 1;
    if (payload.sleep) return sleep(payload.sleep * 1000);
  }
}

// Answer commands, in terms of a contestant's own calls: enqueue(payload), bulk(payloads).
export async function serve({ connect, bulk }) {
  const commands = {
    async one_by_one({ clients, seconds }) {
      const enqueue = await connect(clients);
      const began = now();
      const counts = await Promise.all(
        Array.from({ length: clients }, async () => {
          let count = 0;
          while (now() - began < seconds * 1e9) {
            await enqueue({ i: -1 });
            count += 1;
          }
          return count;
        }),
      );
      return { jobs: counts.reduce((a, b) => a + b), seconds: (now() - began) / 1e9 };
    },

    async many({ jobs, batch, extra, keys = [undefined] }) {
      await connect(1);
      const began = now();
      for (let first = 0; first < jobs; first += batch) {
        const kind = (_, n) => ({ i: -1, ...extra, key: keys[(first + n) % keys.length] });
        await bulk(Array.from({ length: Math.min(batch, jobs - first) }, kind));
      }
      return { jobs, seconds: (now() - began) / 1e9 };
    },

    async paced({ jobs, rate, extra }) {
      const enqueue = await connect(1);
      const returned = [];
      let due = now();
      for (let number = 0; number < jobs; number++) {
        due += ((0.5 + Math.random()) / rate) * 1e9;
        const early = (due - now()) / 1e6;
        if (early > 0) await sleep(early);
        await enqueue({ i: number, ...extra });
        returned.push(now());
      }
      return { returned };
    },
  };

  say({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...rest } = JSON.parse(line);
    say(await commands[name](rest));
  }
  process.exit(0);
}
