/**
 * Where an expert is, for whoever looks on.
 * @module
 */
import { type Executor, npuOfExpert } from '../protocol/topology.ts';

/** The NPUs of a task executor that hold the expert of this layer, ascending. */
export const npusOfExpert = ({ experts }: Executor, _layer: number, expert: number): readonly number[] => [npuOfExpert(expert, experts)];
