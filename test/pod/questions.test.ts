/** What is asked of a control thread is answered once: by it, by one of its successors, or by the pod's end. */
import { expect, it } from 'vitest';
import { Questions } from '../../src/pod/questions.ts';

it('asks whoever is there when there is somebody, and not one that is lost as soon as it has begun', async () => {
  let isOpen = true;
  let succession: Promise<void> | null = null;
  const checkOpen = (): void => {
    if (!isOpen) throw new Error('closed');
  };
  const questions = new Questions({ checkOpen, succession: () => succession });
  const asked: PromiseWithResolvers<string>[] = [];
  const ask = (): Promise<string> => {
    const answer = Promise.withResolvers<string>();
    asked.push(answer);
    return answer.promise;
  };
  const question = questions.ask(ask);
  expect(asked.length).toBe(1);
  const [second, third] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  succession = second.promise;
  questions.lose();
  await Promise.resolve();
  second.resolve();
  succession = third.promise;
  await second.promise;
  expect(asked.length).toBe(1);
  succession = null;
  third.resolve();
  await expect.poll(() => asked.length).toBe(2);
  asked[0]?.resolve('of one that was lost');
  asked[1]?.resolve('right');
  expect(await question).toBe('right');
  const last = questions.ask(ask);
  isOpen = false;
  questions.fail(new Error('it ends'));
  await expect(last).rejects.toThrow('it ends');
  await expect(questions.ask(ask)).rejects.toThrow('closed');
  expect(asked.length).toBe(3);
});
