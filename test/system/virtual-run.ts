/** A run on a virtual clock as a process of its own, whose disk a test may fill. Its argument: the trace. Prints the tokens of each call. @module */
import { createPod } from '../../src/index.ts';
import { virtualCalls } from './virtual-calls.ts';

await using pod = await createPod({ clock: 'virtual', ...(process.argv[2] !== undefined && { record: process.argv[2] }) });
console.log(JSON.stringify(await virtualCalls(pod)));
