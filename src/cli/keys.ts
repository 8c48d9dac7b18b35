/** Keys of the terminal. @module */

/** Each key as it is pressed, until disposed of. */
export function onKeys(hear: (key: string) => void): Disposable {
  const { stdin } = process;
  if (stdin.isTTY !== true) return { [Symbol.dispose]: () => {} };
  const onData = (data: Buffer): void => {
    for (const key of data.toString()) hear(key);
  };
  stdin.setRawMode(true);
  stdin.on('data', onData);
  return {
    [Symbol.dispose]: () => {
      stdin.off('data', onData);
      stdin.setRawMode(false);
      stdin.pause();
    },
  };
}
