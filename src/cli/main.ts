/** Entry of the `minipod` command: bin/minipod.js on Node, `deno run -A src/cli/main.ts` on Deno. @module */
import { run } from './program.ts';

process.exitCode = await run(process.argv.slice(2));
