/**
 * Loaded by every process and thread that runs switched sources, before anything else. MUTANT says which one it is of, 0: none; REACHED: the file that hears
 * which places were passed. A process whose own loop has stood still while it used up this much CPU time goes round for ever, and is ended.
 */
import { appendFileSync } from 'node:fs';
import { isMainThread, Worker } from 'node:worker_threads';

let mutant = Number(process.env['MUTANT'] ?? 0);
const reached = process.env['REACHED'] ?? '';
const STILL_CPU_S = 12;

if (reached === '') {
  globalThis.isMutant = (id) => id === mutant;
  /** In this thread, for what is asked from now on. */
  globalThis.switchTo = (id) => {
    mutant = id;
  };
} else {
  const places = new Set();
  /** Of this thread, taken by who asks: a test when it ends. Other threads tell at once. */
  globalThis.takeReached = () => {
    const taken = [...places];
    places.clear();
    return taken;
  };
  globalThis.isMutant = (id) => {
    if (!places.has(id)) {
      places.add(id);
      if (!isMainThread) appendFileSync(`${reached}.threads`, `${process.pid} ${id}\n`);
    }
    return false;
  };
}

if (isMainThread && reached === '') {
  const beats = new Int32Array(new SharedArrayBuffer(4));
  setInterval(() => Atomics.add(beats, 0, 1), 200).unref();
  const watch = `
    const { workerData: beats } = require('node:worker_threads');
    let [seen, since] = [-1, 0];
    const used = () => { const { user, system } = process.cpuUsage(); return (user + system) / 1e6; };
    setInterval(() => {
      const now = Atomics.load(beats, 0);
      if (now !== seen) [seen, since] = [now, used()];
      else if (used() - since > ${STILL_CPU_S}) process.kill(process.pid, 'SIGKILL');
    }, 500);`;
  new Worker(watch, { eval: true, workerData: beats, env: {}, execArgv: [] }).unref();
}
