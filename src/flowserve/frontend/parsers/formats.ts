/**
 * The parsers by name: vLLM's, of the model families that minipod serves.
 * @module
 */
import { HermesToolCalls } from './hermes.ts';
import { type MarkedCallFormat, MarkedToolCalls } from './marked-calls.ts';
import { QwenCoderToolCalls } from './qwen-coder.ts';
import type { Emit, Parser } from './reply-part.ts';
import type { ThinkingFormat } from './thinking.ts';

const KIMI_SECTION = '<|tool_calls_section_begin|>';
const THINK = { open: '<think>', close: '</think>', also_close: [] } as const;

export const REASONING_PARSERS = ['deepseek_r1', 'deepseek_v3', 'qwen3', 'kimi_k2'] as const;
export type ReasoningParserName = (typeof REASONING_PARSERS)[number];

export const THINKING_FORMATS: Readonly<Record<ReasoningParserName, ThinkingFormat>> = {
  deepseek_r1: { ...THINK, unmarked: 'reasoning' },
  // V3.1 thinks where its template opens it; V3 never does.
  deepseek_v3: { ...THINK, unmarked: 'content' },
  qwen3: { ...THINK, unmarked: 'reasoning' },
  kimi_k2: { ...THINK, also_close: [KIMI_SECTION], unmarked: 'reasoning' },
};

const DEEPSEEK = {
  section: '<｜tool▁calls▁begin｜>',
  section_end: '<｜tool▁calls▁end｜>',
  call: '<｜tool▁call▁begin｜>',
  call_end: '<｜tool▁call▁end｜>',
} as const;

const MARKED: Readonly<Record<'deepseek_v3' | 'deepseek_v31' | 'kimi_k2', MarkedCallFormat>> = {
  deepseek_v3: { ...DEEPSEEK, head_end: '```json', head: /^[^<]*<｜tool▁sep｜>\s*(?<name>\S+)\s*```json$/, is_fenced: true },
  deepseek_v31: { ...DEEPSEEK, head_end: '<｜tool▁sep｜>', head: /^\s*(?<name>[^\s<]+)\s*<｜tool▁sep｜>$/, is_fenced: false },
  kimi_k2: {
    section: KIMI_SECTION,
    section_end: '<|tool_calls_section_end|>',
    call: '<|tool_call_begin|>',
    call_end: '<|tool_call_end|>',
    head_end: '<|tool_call_argument_begin|>',
    // functions.get_weather:0, or without what comes before the dot.
    head: /^\s*(?<id>(?:[^\s<]*\.)?(?<name>[^\s<.:]+):\d+)\s*<\|tool_call_argument_begin\|>$/,
    is_fenced: false,
  },
};

export const TOOL_CALL_PARSERS = ['hermes', 'qwen3_coder', 'qwen3_xml', 'deepseek_v3', 'deepseek_v31', 'kimi_k2'] as const;
export type ToolCallParserName = (typeof TOOL_CALL_PARSERS)[number];

/** Whether the parser of that name needs to know of what types the tools' arguments are. */
export const readsTools = (name: string): boolean => name === 'qwen3_coder' || name === 'qwen3_xml';

/** `tools`: OpenAI's objects; some formats say of what type an argument is only by its tool's schema. */
export function newToolCallParser(name: ToolCallParserName, tools: readonly object[], emit: Emit): Parser {
  switch (name) {
    case 'hermes':
      return new HermesToolCalls(emit);
    case 'qwen3_coder':
    case 'qwen3_xml':
      return new QwenCoderToolCalls(tools, emit);
    default:
      return new MarkedToolCalls(MARKED[name], emit);
  }
}
