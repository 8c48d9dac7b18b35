/** The other thread of bell.test.ts: answers each frame, asleep in between. */
import { workerData } from 'node:worker_threads';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { Links } from '../../src/fabric/links.ts';

const { memories, rings, controlPage } = workerData;
const control = new ControlPage(memories, controlPage);
const links = new Links(1, memories[0], rings, control);
while (!control.isStopped(1)) {
  const busy = links.receive((_, ring) => links.send(0, 'data', ring.header, ring.payload()));
  links.flush();
  // Much longer than the test may take: a wake that is lost is seen.
  if (!busy) control.sleep(1, 60_000, () => links.hasInbound());
}
