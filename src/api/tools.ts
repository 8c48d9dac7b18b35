/**
 * Which tools a chat may use, and how: what of `tool_choice` this server can keep.
 * @module
 */
import type { ToolCallParserName } from '../flowserve/frontend/parsers/formats.ts';
import { ApiError, invalid } from './errors.ts';
import type { ChatRequest } from './schemas.ts';

export type ToolUse = {
  /** What the model is told of. With `tool_choice: "none"` none are: a call of a tool that it does not know it does not make. */
  readonly tools: ChatRequest['tools'];
  /** Null: what looks like a call is text. */
  readonly parser: ToolCallParserName | null;
};

const NO_TOOLS: ToolUse = { tools: [], parser: null };

const unsupported = (param: string, message: string): ApiError => new ApiError(400, `${param}: ${message}`, { param, code: 'unsupported_parameter' });

/** `parser`: the server's, where it parses calls. */
export function toolUse({ tools, tool_choice }: Pick<ChatRequest, 'tools' | 'tool_choice'>, parser: ToolCallParserName | null): ToolUse {
  if (tool_choice === 'none') return NO_TOOLS;
  if (tools.length === 0) {
    if (tool_choice === undefined || tool_choice === 'auto') return NO_TOOLS;
    throw invalid('tool_choice', 'needs tools');
  }
  if (tool_choice === 'required' || typeof tool_choice === 'object')
    throw unsupported(
      'tool_choice',
      `${tool_choice === 'required' ? '"required"' : 'a named function'} needs guided decoding, which this server does not have; use "auto" or "none"`,
    );
  if (parser === null)
    throw unsupported(
      'tools',
      '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set when the server is started; leave tools out, or set tool_choice to "none"',
    );
  return { tools, parser };
}
