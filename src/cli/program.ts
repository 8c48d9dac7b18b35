/**
 * The `minipod` command. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 ended by Ctrl-C and SIGTERM (`serve`, drained by SIGTERM: 0). Of those that compare, `replay` and `trace`:
 * 1 it differs, 2 anything that kept them from telling, 3 the trace is damaged or unfinished.
 * @module
 */
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { serveOptionsSchema } from '../api/serve.ts';
import { type GenerateOptions, MinipodError, type PodOptions } from '../index.ts';
import { generateOptionsSchema, parseOptions, podOptionsSchema } from '../options/options.ts';
import { toErrorRecord } from '../protocol/errors.ts';
import { VERSION } from '../protocol/version.ts';
import { addChaosCommands } from './chaos.ts';
import { CHAT_DEFAULTS, chat } from './chat.ts';
import { addEvalCommand } from './eval.ts';
import { addExpertsCommands } from './experts.ts';
import { FABRIC_POD_DEFAULTS, fabric, fabricOptionsSchema } from './fabric.ts';
import { addFlags, FABRIC_FLAGS, givenFlags, POD_FLAGS, SAMPLING_FLAGS, SERVE_FLAGS, TOP_FLAGS } from './flags.ts';
import { GENERATE_DEFAULTS, generate } from './generate.ts';
import { models } from './models.ts';
import { endQuietlyWithReader, note, printJson } from './output.ts';
import { addQuantizeCommand } from './quantize.ts';
import { addReplayCommand } from './replay.ts';
import { addScaleCommand } from './scale.ts';
import { serve } from './serve.ts';
import { top, topOptionsSchema } from './top.ts';
import { addTraceCommands } from './trace.ts';
import { UsageError } from './usage-error.ts';

const FAILED = 1;
const USAGE_ERROR = 2;
const COMPARING: ReadonlySet<string | undefined> = new Set(['replay', 'trace']);
/** Less than the 30 s after which Kubernetes, by default, kills what it has sent SIGTERM. */
const DRAIN_MS = 25_000;
/** Those of `serve` that go together. */
const { tool_call_parser, enable_auto_tool_choice } = SERVE_FLAGS;
const PARSER_FLAGS = { tool_call_parser, enable_auto_tool_choice };
/** One prompt: what these ask for has no place in a conversation. */
const { n: _n, prompt_logprobs: _promptLogprobs, logprobs: _logprobs, add_special_tokens: _add, ...CHAT_FLAGS } = SAMPLING_FLAGS;

/** Runs one command line (without the program's own name) and gives the exit code; it never throws. */
export async function run(args: readonly string[]): Promise<number> {
  endQuietlyWithReader();
  let exit_code = 0;
  const program = createProgram((code) => {
    exit_code = code;
  });
  try {
    await program.parseAsync([...args], { from: 'user' });
    return exit_code;
  } catch (error) {
    const code = await report(error, args.includes('--json'));
    const isRefusedPlan = args[0] === 'chaos' && error instanceof MinipodError && error.code === 'invalid_request';
    return code === FAILED && (COMPARING.has(args[0]) || isRefusedPlan) ? USAGE_ERROR : code;
  }
}

async function report(error: unknown, json: boolean): Promise<number> {
  // Commander has said it already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE_ERROR;
  if (json) await printJson({ error: toErrorRecord(error) });
  if (error instanceof UsageError || (error instanceof MinipodError && error.code !== 'internal')) note(`minipod: ${error.message}`);
  else note(`minipod: this is a defect of minipod: ${error instanceof Error ? error.stack : String(error)}`);
  return isWrongUsage(error) ? USAGE_ERROR : FAILED;
}

/** Flags that do not fit each other or the model show only once the pod has seen them. A model that is not there is a file that is missing. */
function isWrongUsage(error: unknown): boolean {
  if (error instanceof UsageError) return true;
  if (!(error instanceof MinipodError) || error.code !== 'invalid_request') return false;
  const [flag = ''] = error.param?.split('.') ?? [];
  return flag !== 'model' && [POD_FLAGS, SAMPLING_FLAGS, PARSER_FLAGS].some((flags) => Object.hasOwn(flags, flag));
}

/** All commands; nothing runs before it is given arguments. */
export function createProgram(setExitCode: (code: number) => void): Command {
  const program = new Command('minipod')
    .description('Serves mixture-of-experts language models: a SuperPod in one process.')
    .version(VERSION, '-V, --version')
    .helpCommand('help [command]', 'Shows what a command can do.')
    .showHelpAfterError('Add --help for what is possible.')
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'minipod: ')) })
    .exitOverride()
    .addHelpText('after', EXAMPLES);
  const add = (name: string, summary: string): Command => program.command(name).summary(summary).description(summary);

  const serveCommand = add('serve', 'Serves the OpenAI-compatible API over HTTP until Ctrl-C.');
  addFlags(serveCommand, 'HTTP:', SERVE_FLAGS, serveOptionsSchema.shape);
  serveCommand.option(
    '--drain-ms <N>',
    `what running requests have to finish once SIGTERM or Ctrl-C drains it (default: ${DRAIN_MS}); a second signal ends it at once`,
    milliseconds,
  );
  addPodFlags(serveCommand);
  serveCommand.option('--json', 'print one JSON object when it listens: url, port, model, pid');
  serveCommand.addHelpText('after', SERVE_EXAMPLES).action(async ({ drainMs, json }: { drainMs?: number; json?: true }) => {
    const api = givenFlags(serveCommand, SERVE_FLAGS);
    setExitCode(await serve({ pod: podOptions(serveCommand), api, drain_ms: drainMs ?? DRAIN_MS, json: json ?? false }));
  });

  const generateCommand = add('generate', 'Continues a prompt on standard output, as its tokens come.').argument(
    '[prompt...]',
    'the text to continue; - or none: standard input',
  );
  generateCommand.option('--echo', 'print the prompt before its continuation');
  generateCommand.option(
    '--json',
    'print a JSON object a line: each chunk {choice, text, token_ids, logprobs, …}, then {id, model, seed, prompt, usage, times}',
  );
  addFlags(generateCommand, 'Sampling:', SAMPLING_FLAGS, generateOptionsSchema.shape, GENERATE_DEFAULTS);
  addPodFlags(generateCommand);
  generateCommand.addHelpText('after', GENERATE_EXAMPLES).action(async (words: string[], { json, echo }: { json?: true; echo?: true }) => {
    const sampling: GenerateOptions = givenFlags(generateCommand, SAMPLING_FLAGS);
    setExitCode(await generate({ words, pod: podOptions(generateCommand), sampling, json: json ?? false, echo: echo ?? false }));
  });

  const chatCommand = add('chat', 'Holds a conversation, from the keyboard or line by line from a pipe.');
  chatCommand.option('--system <TEXT>', 'what the conversation opens with');
  chatCommand.option('--json', 'print a JSON object for each answer: {role, content, finish_reason, usage, seed}');
  addFlags(chatCommand, 'Sampling:', CHAT_FLAGS, generateOptionsSchema.shape, CHAT_DEFAULTS);
  addPodFlags(chatCommand);
  chatCommand.addHelpText('after', CHAT_EXAMPLES).action(async ({ system, json }: { system?: string; json?: true }) => {
    const sampling: GenerateOptions = givenFlags(chatCommand, CHAT_FLAGS);
    setExitCode(await chat({ pod: podOptions(chatCommand), sampling, system, json: json ?? false }));
  });

  const modelsCommand = add('models', 'Lists the models that minipod ships, or describes those in the folders given.').argument(
    '[folder...]',
    'models in the Hugging Face layout, or folders that hold such',
  );
  modelsCommand.option('--json', 'print a JSON array').action(async (names: string[], { json }: { json?: true }) => {
    setExitCode(await models({ names, json: json ?? false }));
  });

  const fabricCommand = add('fabric', 'Shows what the shared memory of a pod does under load: its links, NPUs, threads and regions.');
  fabricCommand.option('--json', 'print one JSON object at the end, as pod.stats() gives it');
  addFlags(fabricCommand, 'Load:', FABRIC_FLAGS, fabricOptionsSchema.shape);
  addPodFlags(fabricCommand, FABRIC_POD_DEFAULTS);
  fabricCommand.addHelpText('after', FABRIC_EXAMPLES).action(async ({ json }: { json?: true }) => {
    const load = parseOptions(fabricOptionsSchema, givenFlags(fabricCommand, FABRIC_FLAGS), 'fabric');
    setExitCode(await fabric({ pod: podOptions(fabricCommand), load, json: json ?? false }));
  });

  const topCommand = add('top', 'Shows what the engines of a running server do: queues, KV use, hit rate, tokens a second, latencies.');
  addFlags(topCommand, 'Server:', TOP_FLAGS, topOptionsSchema.shape);
  topCommand.option('--once', 'print once and leave, as where there is no terminal');
  topCommand.option('--json', 'print one JSON object: {url, model, seconds, engines: [{engine, requests_running, …}]}');
  topCommand.addHelpText('after', TOP_EXAMPLES).action(async ({ once, json }: { once?: true; json?: true }) => {
    const options = parseOptions(topOptionsSchema, givenFlags(topCommand, TOP_FLAGS), 'top');
    setExitCode(await top({ options, once: once ?? false, json: json ?? false }));
  });

  addEvalCommand(program, setExitCode);
  addChaosCommands(program, setExitCode);
  addQuantizeCommand(program, setExitCode);
  addExpertsCommands(program, setExitCode);
  addScaleCommand(program, setExitCode);
  addReplayCommand(program, setExitCode);
  addTraceCommands(program, setExitCode);
  return program;
}

const addPodFlags = (command: Command, defaults: PodOptions = {}): void => addFlags(command, 'Pod:', POD_FLAGS, podOptionsSchema.shape, defaults);

const podOptions = (command: Command): PodOptions => givenFlags(command, POD_FLAGS);

function milliseconds(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It is not a number of milliseconds.');
  return Number(text);
}

const EXAMPLES = `
Examples:
  $ minipod generate "Once upon a time"
  $ minipod chat
  $ minipod serve --port 8000
  $ minipod generate "Once" --record run.trace && minipod replay run.trace
  $ minipod generate --help

Every option is also one of the embedded API, by the same name: --max-tokens is max_tokens.`;

const SERVE_EXAMPLES = `
Examples:
  $ minipod serve
  $ minipod serve --npus 8 --workers 2 --port 9000
  $ MINIPOD_API_KEY=secret minipod serve --host 0.0.0.0 --model ./my-model

Routes: /v1/chat/completions /v1/completions /v1/contexts /v1/models /tokenize /detokenize /reset_prefix_cache /admin/scale /scale_elastic_ep /is_scaling_elastic_ep /admin/rebalance /kv_events /experts /health /version /metrics`;

const GENERATE_EXAMPLES = `
Examples:
  $ minipod generate "Once upon a time"
  $ minipod generate "The king said" --temperature 0 --max-tokens 50 --echo
  $ minipod generate "The wolf" --seed 7 --n 3
  $ echo "In a deep forest" | minipod generate --json | head -3`;

const CHAT_EXAMPLES = `
Examples:
  $ minipod chat
  $ minipod chat --system "You tell short tales." --temperature 1
  $ printf 'Tell me a story.\\nAnd then?\\n' | minipod chat --seed 7`;

const FABRIC_EXAMPLES = `
Examples:
  $ minipod fabric
  $ minipod fabric --npus 8 --workers 2 --requests 32
  $ minipod fabric --seconds 5 > fabric.md
  $ minipod fabric --requests 0 --json`;

const TOP_EXAMPLES = `
Examples:
  $ minipod top
  $ minipod top --url http://127.0.0.1:9000
  $ minipod top --json --interval-seconds 10 | jq '.engines[].generation_tokens_per_second'`;
