/** The thread that ring-kill-threads.test.ts ends in the middle of whatever it does: sends without pause, and checks what it is sent. */
import { workerData } from 'node:worker_threads';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { Links } from '../../src/fabric/links.ts';
import { checkFrame, type KillData, sendNext } from './lives.ts';

const { memories, rings, controlAt, errorsAt, life, epoch } = workerData as KillData;
const [memory] = memories;
const control = new ControlPage(memories, controlAt);
const links = new Links(1, memory, rings, control, { epoch });
// It does not look at its own epoch: as if it were in the middle of something all the time.
links.isFenced = () => false;
const errors = new Int32Array(memory.buffer, errorsAt, 1);
const sent = [0, 0];
const received = [0, 0];

for (let isStopped = false; !isStopped; ) {
  isStopped = control.isStopped(1);
  links.receive((_, ring) => {
    if (!checkFrame(ring, life, received)) Atomics.add(errors, 0, 1);
  });
  for (let burst = 0; burst < 8; burst++) sendNext(links, 0, life, sent);
  links.flush();
}
control.acknowledgeStop(1);
