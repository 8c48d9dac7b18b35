/** The command line itself is wrong: exit code 2. @module */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
