/** How threads of this program are started. @module */

/** A thread's entry file, its path from this folder: `.ts` when the sources run as they are, `.js` in dist/. */
export const entryPoint = (path: string): URL => new URL(`${path}${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url);

/** A thread runs a file, so it cannot inherit how the text of `node --input-type … --eval` is to be read. */
export const threadOptions = (): { execArgv?: string[] } => (process.execArgv.some((argument) => argument.startsWith('--input-type')) ? { execArgv: [] } : {});
