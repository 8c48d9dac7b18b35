/** What a caller may give to be continued. @module */

/** A call that the model has made; `arguments` is JSON text. */
export type ToolCall = {
  readonly id: string;
  readonly type: 'function';
  readonly function: { readonly name: string; readonly arguments: string };
};
/** As in OpenAI's API. `content` may be null beside `tool_calls`; `reasoning` is what the model thought before it. */
export type ChatMessage = {
  readonly role: string;
  readonly content: string | null;
  readonly name?: string | undefined;
  readonly reasoning?: string | undefined;
  readonly tool_calls?: readonly ToolCall[] | undefined;
  readonly tool_call_id?: string | undefined;
};
/** Messages with the tools that the model may call (OpenAI's objects), and further variables of the model's chat template. */
export type Conversation = {
  readonly messages: readonly ChatMessage[];
  readonly tools?: readonly object[] | undefined;
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | undefined;
};
/** Text, token ids, or a conversation for the model's chat template. */
export type Prompt = string | readonly number[] | readonly ChatMessage[] | Conversation;
