/** How frames between threads are guarded on a virtual clock: by the sum that those of rings have. @module */
import { FrameSum } from '../fabric/frame-sum.ts';
import type { Message } from '../protocol/messages.ts';
import type { Codec } from '../protocol/wire.ts';
import type { Directory } from '../runtime/directory.ts';
import type { LinkTerms } from '../runtime/virtual-links.ts';

export function virtualLinkTerms(directory: Directory, codec: Codec, onBroken: LinkTerms['onBroken']): LinkTerms {
  const sum = new FrameSum();
  const tail = new Int32Array(1);
  const sumOf = (message: Message): number => {
    const { words, bytes } = codec.pack(message);
    sum.begin(bytes);
    sum.add(words, 0, bytes >>> 2);
    // Behind the last byte lies what an earlier message has left there.
    tail[0] = (words[bytes >>> 2] as number) & ((1 << ((bytes & 3) * 8)) - 1);
    sum.add(tail, 0, 1);
    return sum.end();
  };
  return { crosses: ({ to, from }) => directory.threadOf(to) !== directory.threadOf(from), sumOf, onBroken };
}
