/** Which bundles there are, and what they are called. @module */

/** What threads and the command begin with: `src/…`, without its ending. */
export const ENTRIES = [
  'src/cli/main',
  'src/platform/control-thread',
  'src/platform/npu-worker-thread',
  'src/platform/network-card-thread',
  'src/trace/recorder-thread',
  'src/chaos/campaign-thread',
  'src/chaos/live-worker-thread',
  'src/chaos/live-control-thread',
] as const;

/** An entry's file in a folder of bundles. */
export const bundleOf = (entry: string): string => `${entry.replaceAll('/', '-')}.mjs`;
