/** What all operations of one die share. @module */
import type { AddressSpace } from '../fabric/address-space.ts';
import type { PointToPointCounters } from './message.ts';
import type { Ranges } from './ranges.ts';

export type Die = { readonly space: AddressSpace; readonly ranges: Ranges; readonly counters: PointToPointCounters };
