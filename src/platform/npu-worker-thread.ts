/** Entry of a worker thread. @module */
import { NpuWorker } from '../flowserve/npu-worker.ts';
import { routedTo, witnessOf } from '../trace/act-log.ts';
import { birthOf, birthOfController } from './births.ts';
import { whenSeated } from './worker-seat.ts';

whenSeated(({ acts, routing, ...data }, samples) => {
  const worker = new NpuWorker(
    data,
    { birthOf, birthOfController },
    (clock) => witnessOf(acts, clock),
    (clock) => routedTo(routing, clock),
    samples,
  );
  worker.start();
  worker.run();
});
