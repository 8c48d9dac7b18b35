/**
 * A control thread that misbehaves when it is told to, by stop words of threads that nobody is: it turns its loop no more, or throws in it, or one who lives there is
 * silent, and the time that is borne runs ten times as fast. A successor's memory has no such order, so it is well. While there is the file that is named to it whoever
 * begins takes it away, and comes no further.
 */
import { existsSync, rmSync } from 'node:fs';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { Suspicions } from '../../src/platform/suspicions.ts';
import { Cast } from '../../src/runtime/cast.ts';
import { CONTROL_THREAD } from '../../src/runtime/directory.ts';
import { BEGINS_NOT, CONTROL_ORDERS, MUTE } from './rogue-control-order.ts';
import '../../src/platform/control-thread.ts';

/** On Deno it would be there to the end of the process. */
const HANGS_MS = 60_000;

const order = process.env[BEGINS_NOT];
if (order !== undefined && existsSync(order)) {
  rmSync(order);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, HANGS_MS);
}

const HASTE = 10;
let isMute = false;
const { deliver } = Cast.prototype;
Cast.prototype.deliver = function (mail) {
  if (!isMute || mail.to !== MUTE) deliver.call(this, mail);
};
const { hear } = Suspicions.prototype;
Suspicions.prototype.hear = function (message) {
  hear.call(this, isMute && message.type === 'SUSPECTED' ? { ...message, silent_ms: HASTE * message.silent_ms } : message);
};

const { turn } = ControlPage.prototype;
ControlPage.prototype.turn = function (thread: number): void {
  if (thread === CONTROL_THREAD && this.isStopped(CONTROL_ORDERS.spin)) this.stop(CONTROL_ORDERS.spins);
  // On Deno it would spin to the end of the process.
  while (thread === CONTROL_THREAD && this.isStopped(CONTROL_ORDERS.spin) && !this.isStopped(CONTROL_THREAD));
  if (thread === CONTROL_THREAD && this.isStopped(CONTROL_ORDERS.throw)) throw new Error('the test wants it so');
  isMute ||= thread === CONTROL_THREAD && this.isStopped(CONTROL_ORDERS.mute);
  turn.call(this, thread);
};
