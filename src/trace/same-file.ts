/** Whether two paths lead to one file. @module */
import { existsSync, realpathSync, statSync } from 'node:fs';

/** By whatever names: `./x`, a symbolic link, a second hard link. False where either is not there. */
export function isSameFile(a: string, b: string): boolean {
  if (!existsSync(a) || !existsSync(b)) return false;
  if (realpathSync(a) === realpathSync(b)) return true;
  const [one, other] = [statSync(a), statSync(b)];
  // Where the file system has no numbers for files they are all 0.
  return one.ino > 0 && one.ino === other.ino && one.dev === other.dev;
}
