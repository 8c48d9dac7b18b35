/**
 * Rounds in turn, and how what came of them is shown.
 * @module
 */
import { median } from './harness.ts';

export const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 9);
const ONLY = process.env['BENCH_ONLY']?.split(',');

/** `BENCH_ONLY=slots,stop`: these parts alone. */
export const isAsked = (part: string): boolean => ONLY === undefined || ONLY.includes(part);
/** Results of a run of some parts are not written over those of a whole one. */
export const isWhole = ONLY === undefined;
export const resultsPath = (bench: string): string => `bench/results/${bench}${'Deno' in globalThis ? '-deno' : ''}.json`;

/** One who takes part: a slice of work, and the number that it yields. */
export type Turn = () => number | Promise<number>;

/** Each in turn, round after round, so that a noisy machine disturbs all alike; what came, by round. The first `warm` rounds do not count. */
export async function takeTurns<Name extends string>(turns: Readonly<Record<Name, Turn>>, warm: number, rounds = ROUNDS): Promise<Record<Name, number[]>> {
  const names = Object.keys(turns) as Name[];
  const came = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  for (let round = -warm; round < rounds; round++) {
    for (const name of names) {
      const value = await turns[name]();
      if (round >= 0) came[name].push(value);
    }
  }
  return came;
}

/** Median over the rounds of own / other in the same round. */
export const medianRatio = (own: readonly number[], other: readonly number[]): number =>
  median(own.map((value, round) => value / (other[round] ?? Number.NaN)));

/** `≥ 0.7`, or `MISSED 0.7`. */
export const atLeast = (goal: number | null, value: number): string => (goal === null ? '' : `${value >= goal ? '≥' : 'MISSED'} ${goal}`);
export const atMost = (goal: number | null, value: number): string => (goal === null ? '' : `${value <= goal ? '≤' : 'MISSED'} ${goal}`);

/** Three digits that count. */
export const digits = (value: number): string => (Number.isFinite(value) ? String(Number(value.toPrecision(3))) : '–');
