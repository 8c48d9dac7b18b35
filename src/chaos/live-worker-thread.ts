/**
 * Entry of a worker thread that breaks when it is told to. What its loop calls at each turn, and what it calls where it sends, is looked on at: nothing of the
 * shipped worker is changed for this.
 * @module
 */
import { ControlPage } from '../fabric/control-page.ts';
import { RingProducer } from '../fabric/ring.ts';
import { NpuWorker } from '../flowserve/npu-worker.ts';
import { birthOf, birthOfController } from '../platform/births.ts';
import { whenSeated } from '../platform/worker-seat.ts';
import { Endpoint } from '../xccl/endpoint.ts';
import { Exchange } from '../xccl/exchange.ts';
import { LiveStriker } from './live-striker.ts';

const { isStopped, ring } = ControlPage.prototype;
const { publish, write, writePart } = RingProducer.prototype;
const { write: writeField } = Endpoint.prototype;
const { leaveRows } = Exchange.prototype;

whenSeated(({ acts: _, routing: __, ...data }, samples) => {
  const striker = new LiveStriker(data);
  ControlPage.prototype.isStopped = function (thread) {
    striker.turn();
    return isStopped.call(this, thread);
  };
  ControlPage.prototype.ring = function (thread) {
    return striker.losesBell(this, thread) || ring.call(this, thread);
  };
  RingProducer.prototype.publish = function () {
    striker.show(this);
    return publish.call(this);
  };
  RingProducer.prototype.write = function (...frame) {
    return !striker.isFull(this) && write.apply(this, frame);
  };
  RingProducer.prototype.writePart = function (...part) {
    return striker.isFull(this) ? 0 : writePart.apply(this, part);
  };
  Exchange.prototype.leaveRows = function (lane, blocks) {
    leaveRows.call(this, lane, blocks);
    striker.leaveRows(blocks);
  };
  Endpoint.prototype.write = function (peer, channel, ...words) {
    striker.tell(this, this.nextEvent(peer, channel), peer, channel, words);
    return writeField.call(this, peer, channel, ...words);
  };
  const worker = new NpuWorker(data, { birthOf, birthOfController }, undefined, undefined, samples);
  worker.start();
  worker.run();
});
