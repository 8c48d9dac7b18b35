/** A thread's links and codec, as a pod's threads have them: kept between jobs, since a codec gets faster with what it has seen. @module */
import { Links } from '../src/fabric/links.ts';
import { monotonicClock } from '../src/runtime/clock.ts';
import { MessagePort } from '../src/runtime/message-port.ts';
import { PLACE, type Side } from './fabric-duo.ts';

export type Station = { readonly links: Links; readonly port: MessagePort };

let station: Station | null = null;

export function stationOf(side: Side): Station {
  if (station !== null) return station;
  const clock = monotonicClock(0);
  const links = new Links(side.thread, side.memory, PLACE.rings, side.control, { now_us: () => clock.now_ms() * 1000 });
  station = { links, port: new MessagePort(links) };
  return station;
}
