/** The views' commands on the test's own thread: a process of its own for each question would take most of the tests' time. */
import { Command } from 'commander';
import { vi } from 'vitest';
import { addExplainCommand } from '../../src/cli/trace-explain.ts';
import { addExportCommand } from '../../src/cli/trace-export.ts';

export type Asked = { readonly code: number; readonly stdout: string; readonly error: string };

/** `args` are those behind `minipod trace`; `code` is that of a command which did not fail. */
export async function ask(...args: readonly string[]): Promise<Asked> {
  let [code, stdout, error] = [0, '', ''];
  const trace = new Command('trace').exitOverride().configureOutput({ outputError: () => {} });
  const setExitCode = (given: number): void => {
    code = given;
  };
  addExplainCommand(trace, setExitCode);
  addExportCommand(trace, setExitCode);
  for (const command of trace.commands) command.exitOverride().configureOutput({ outputError: () => {} });
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    stdout += String(text);
    return true;
  });
  try {
    await trace.parseAsync([...args], { from: 'user' });
  } catch (thrown) {
    error = thrown instanceof Error ? thrown.message : String(thrown);
  } finally {
    write.mockRestore();
  }
  return { code, stdout, error };
}
