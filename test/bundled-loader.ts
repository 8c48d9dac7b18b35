/** Before each file on Deno: whoever asks for src/runtime/thread-entry.ts is given bundled-entry.ts. Said once in a process, for all that it loads. */
import { registerHooks } from 'node:module';

const SAID = Symbol.for('minipod.test.bundled-loader');
const ofProcess = globalThis as { [SAID]?: true };

if (ofProcess[SAID] === undefined) {
  ofProcess[SAID] = true;
  registerHooks({
    resolve(specifier, context, next) {
      const resolved = next(specifier, context);
      return resolved.url.endsWith('/src/runtime/thread-entry.ts') ? { ...resolved, url: new URL('bundled-entry.ts', import.meta.url).href } : resolved;
    },
  });
}
