/**
 * Exchanges that go on beside one another between the same dies: each has a lane, two channels of its own, so that what one has published is not overwritten by
 * another. The micro-batches of DP domains that share their expert ranks are such exchanges (turns.ts).
 * @module
 */
import { CHANNEL, CHANNELS, CHANNELS_OF_LANE, type Channel } from './areas.ts';

export type Lane = { readonly dispatch: Channel; readonly combine: Channel };

/** Of dies that have one exchange. */
export const ONLY_LANE: Lane = { dispatch: CHANNEL.dispatch, combine: CHANNEL.combine };

/** From 0 to `AreaSizes.lanes` − 1. */
export const laneOf = (index: number): Lane => {
  const dispatch = CHANNELS + CHANNELS_OF_LANE * index;
  return { dispatch, combine: dispatch + 1 };
};
