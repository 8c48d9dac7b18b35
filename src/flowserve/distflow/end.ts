/**
 * One end of a link: the NPU that pulls, as the life that it is now, and what it pulls by.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Backend } from './backend.ts';
import type { Checksum } from './checksum.ts';

export class End {
  readonly space: AddressSpace;
  readonly backend: Backend;
  readonly checksum: Checksum;
  readonly die: number;
  /** The die's epoch as whoever made this end knows it: raised since, this end writes nothing any more. */
  readonly epoch: number;

  constructor(space: AddressSpace, backend: Backend, checksum: Checksum, die: number, epoch: number) {
    this.space = space;
    this.backend = backend;
    this.checksum = checksum;
    this.die = die;
    this.epoch = epoch;
  }

  get isGivenUp(): boolean {
    return this.space.control.epochOfDie(this.die) !== this.epoch;
  }
}
