/** A pod for a command, with its loading shown to whoever watches. @module */
import yoctoSpinner from 'yocto-spinner';
import { createPod, type Pod, type PodOptions } from '../index.ts';
import { podOptionsSchema } from '../options/options.ts';
import { note } from './output.ts';

const MIB = 1 << 20;

export async function openPod(options: PodOptions): Promise<Pod> {
  if (options.average_routing)
    note('minipod: --average-routing: experts are asked in turn, for measurements alone; what is generated are not the model’s tokens');
  if (!process.stderr.isTTY) return createPod(options);
  const name = options.model ?? podOptionsSchema.shape.model.parse(undefined);
  const spinner = yoctoSpinner({ text: `loading ${name}`, stream: process.stderr }).start();
  try {
    return await createPod({
      ...options,
      onProgress: ({ loaded_bytes, total_bytes }) => {
        spinner.text = `loading ${name}: ${Math.floor((100 * loaded_bytes) / total_bytes)} % of ${Math.ceil(total_bytes / MIB)} MiB`;
      },
    });
  } finally {
    spinner.stop();
  }
}
