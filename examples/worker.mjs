// A worker in Node, without dependencies:
//
//     ROTA_URL=… ROTA_TOKEN=… node worker.mjs HANDLERS QUEUE…
//
// HANDLERS is a module that exports a function for each task, under the task's name:
//
//     export async function add({ a, b }, job) { return a + b }
//
// What a handler returns is the job's result, what it throws its error. job.signal is aborted when
// the work is to end: at the job's timeout, when it was cancelled, when its lease was lost.
// This process may be killed on any line: what it held runs again when the leases have run out,
// and what it says too late changes nothing.

import { hostname } from "node:os"
import { resolve } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { pathToFileURL } from "node:url"

const url = process.env.ROTA_URL ?? "http://127.0.0.1:5000"
const lease = Number(process.env.ROTA_LEASE ?? 30) // seconds
const concurrency = Number(process.env.ROTA_CONCURRENCY ?? 4) // jobs at a time
const grace = Number(process.env.ROTA_GRACE ?? 10) // seconds in which to finish, when told to stop

const [module, ...queues] = process.argv.slice(2)
if (queues.length === 0) {
  console.error("usage: node worker.mjs HANDLERS QUEUE…")
  process.exit(2)
}
const handlers = await import(pathToFileURL(resolve(module)))
const claim = { queues, worker: `worker.mjs ${hostname()} ${process.pid}`, lease_seconds: lease }
const headers = { "Content-Type": "application/json" }
if (process.env.ROTA_TOKEN) headers.Authorization = `Bearer ${process.env.ROTA_TOKEN}`

const held = new Map() // by their ids, the jobs that we hold
const waits = new Set() // requests that wait for a job
let stopping = false

/** Ask until there is an answer that tells us something; null if we stop before we had a job. */
async function post(path, body) {
  for (let pause = 0.25; path !== "claim" || !stopping; pause = Math.min(2 * pause, 5)) {
    const request = new AbortController()
    const timer = setTimeout(() => request.abort(new Error("it takes too long")), 40_000)
    if (path === "claim") waits.add(request)
    try {
      const response = await fetch(`${url}/jobs/${path}`, {
        method: "POST", headers, body: JSON.stringify(body), signal: request.signal,
      })
      const text = await response.text()
      const { ok, status } = response
      if (ok || (path !== "claim" && [400, 404, 409, 413, 422].includes(status))) {
        return { ok, status, ...JSON.parse(text || "{}") }
      }
      console.error(`${url} answers ${status} ${text.trim()}; trying again`)
    } catch (error) {
      if (path === "claim" && stopping) break
      console.error(`no answer from ${url}: ${error.cause?.message || error.message || error}; trying again`)
    } finally {
      clearTimeout(timer)
      waits.delete(request)
    }
    await sleep(pause * 1000)
  }
  return null
}

/** Run a job; return its result or its error, for the body of a finish. */
async function run(job) {
  const end = new AbortController()
  held.set(job.id, { job, end })
  const ended = new Promise((_, reject) => {
    end.signal.addEventListener("abort", () => reject(end.signal.reason))
  })
  ended.catch(() => {}) // when it comes too late nobody listens
  const tooLong = () => end.abort(new Error(`ran longer than ${job.timeout_seconds} s`))
  const timer = job.timeout_seconds && setTimeout(tooLong, Math.min(job.timeout_seconds * 1000, 2 ** 31 - 1))
  try {
    if (!Object.hasOwn(handlers, job.task)) throw new Error(`there is no handler for ${job.task}`)
    const work = handlers[job.task](job.payload, { ...job, signal: end.signal })
    return { result: JSON.parse(JSON.stringify((await Promise.race([work, ended])) ?? null)) }
  } catch (error) {
    return { error: String(error?.stack ?? error) }
  } finally {
    clearTimeout(timer)
  }
}

/** Say how a job ended; return the next one, claimed in the same request, if there is one. */
async function finish(job, outcome) {
  const next = () => (stopping ? {} : { claim_next: claim })
  let answer = await post(`${job.id}/finish`, { token: job.token, ...outcome, ...next() })
  if (!answer.ok && answer.status !== 409) { // it is too large, or has what no database can store
    const error = `what came of it was refused: ${answer.message}`
    answer = await post(`${job.id}/finish`, { token: job.token, error, ...next() })
  }
  if (!answer.ok) console.error(`job ${job.id}: ${answer.message}`) // somebody else has it by now
  held.delete(job.id)
  return answer.claimed?.[0]
}

/** Run one job after the other. */
async function lane() {
  let job
  while (job || !stopping) {
    job ??= (await post("claim", { ...claim, wait_seconds: 20 }))?.jobs?.[0]
    if (job) job = await finish(job, await run(job))
  }
}

/** Extend the leases of all that runs here; end what was cancelled, or is no longer ours. */
async function beat() {
  for (;;) {
    await sleep((lease * 1000) / 3)
    const asked = [...held.values()]
    if (asked.length === 0) continue
    const jobs = asked.map(({ job }) => ({ job_id: job.id, token: job.token }))
    const answer = await post("heartbeat", { jobs, lease_seconds: lease })
    if (!answer.ok) console.error(`the leases are not extended: ${answer.message}`)
    for (const { job, end } of answer.ok ? asked : []) {
      const found = answer.jobs.find(({ job_id }) => job_id === job.id)
      if (!found) end.abort(new Error("the lease was lost"))
      else if (found.cancel_requested) end.abort(new Error("the job was cancelled"))
    }
  }
}

/** Claim no more; finish what can be finished in time, and hand back the rest. */
async function stop() {
  if (stopping) process.exit(1) // told twice
  stopping = true
  for (const request of waits) request.abort()
  await sleep(grace * 1000)
  const rest = [...held.values()].map(({ job }) => job)
  const released = rest.map(({ id, token }) => post(`${id}/release`, { token, reason: "the worker stops" }))
  await Promise.race([Promise.all(released), sleep(5000)])
  process.exit(0)
}

process.on("SIGTERM", stop)
process.on("SIGINT", stop)
beat()
await Promise.all(Array.from({ length: concurrency }, lane))
process.exit(0)
