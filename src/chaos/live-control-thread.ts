/**
 * Entry of a control thread that turns its loop no more when it is told to: by the stop word of a thread that there is not, which its successor's memory has not
 * raised. Nothing of the shipped one is changed for this.
 * @module
 */
import { ControlPage } from '../fabric/control-page.ts';
import { CONTROL_THREAD } from '../runtime/directory.ts';
import { HANGS } from './live-control-order.ts';
import '../platform/control-thread.ts';

const { turn } = ControlPage.prototype;
ControlPage.prototype.turn = function (thread) {
  // Deno ends no thread that runs: there it goes on until it hears that it was given up.
  while (thread === CONTROL_THREAD && this.isStopped(HANGS) && !this.isStopped(CONTROL_THREAD));
  turn.call(this, thread);
};
