/**
 * A parameter that a model wrote as plain text, as the JSON that the tool's schema asks for.
 * @module
 */
type Schema = { readonly [key: string]: unknown };

const isSchema = (value: unknown): value is Schema => typeof value === 'object' && value !== null && !Array.isArray(value);

/** The schemas of a tool's parameters by name, from OpenAI's list of tools; none for a tool that is not in it. */
export function parameterSchemas(tools: readonly object[], name: string): Schema {
  for (const tool of tools) {
    const declared = 'function' in tool && isSchema(tool.function) ? tool.function : {};
    if (declared['name'] !== name) continue;
    const parameters = declared['parameters'];
    return isSchema(parameters) && isSchema(parameters['properties']) ? parameters['properties'] : {};
  }
  return {};
}

/** JSON text: of the schema's type where the text is that, else a string. `null` is null, as in vLLM. */
export function parameterJson(text: string, schema: unknown): string {
  const types = typesOf(schema);
  const literal = types.has('boolean') ? text.trim().toLowerCase() : text.trim();
  const type = jsonType(literal);
  if (type === 'null' || (type !== null && types.has(type)) || (type === 'integer' && types.has('number'))) return literal;
  return JSON.stringify(text);
}

function typesOf(schema: unknown): ReadonlySet<unknown> {
  if (!isSchema(schema)) return new Set();
  const { type, anyOf, oneOf } = schema as { type?: unknown; anyOf?: unknown; oneOf?: unknown };
  const choices = [anyOf, oneOf].flatMap((all) => (Array.isArray(all) ? all.flatMap((one) => [...typesOf(one)]) : []));
  return new Set([...(Array.isArray(type) ? type : [type]), ...choices]);
}

/** Null for what is no JSON. */
function jsonType(text: string): string | null {
  try {
    const value: unknown = JSON.parse(text);
    if (value === null) return 'null';
    if (Array.isArray(value)) return 'array';
    return Number.isInteger(value) ? 'integer' : typeof value;
  } catch {
    return null;
  }
}
