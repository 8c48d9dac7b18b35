/**
 * What may be changed in a source: places of its syntax tree, each with what would stand there. Nothing in types, messages, assertions or what is thrown; numbers
 * only inside functions, since a constant of a module is a size or a limit that somebody chose.
 * @module
 */
import { parseAst } from 'rolldown/parseAst';

export const OPERATORS = [
  'condition negated',
  'loop left out',
  'boundary moved',
  'comparison turned',
  'arithmetic turned',
  '&& and || exchanged',
  '?? always its right side',
  'least and most exchanged',
  'some and every exchanged',
  'arguments exchanged',
  'number off by one',
  'boolean turned',
  'statement removed',
  'action removed',
] as const;
export type Operator = (typeof OPERATORS)[number];

/** `text` stands in place of the source from `start` to `end`. */
export type Candidate = { readonly operator: Operator; readonly start: number; readonly end: number; readonly text: string };

type Node = { readonly type: string; readonly start: number; readonly end: number; readonly [key: string]: unknown };
type Place = { readonly inFunction: boolean; readonly inChain: boolean; readonly parent: Node };

const BOUNDARIES: Readonly<Record<string, string>> = { '<': '<=', '<=': '<', '>': '>=', '>=': '>' };
const COMPARISONS: Readonly<Record<string, string>> = { '===': '!==', '!==': '===' };
const ARITHMETIC: Readonly<Record<string, string>> = {
  ...{ '+': '-', '-': '+', '*': '/', '/': '*', '%': '*', '<<': '>>>', '>>>': '<<', '&': '|', '|': '&' },
};
/** What says something to a person, or that what cannot be is not: to change it changes no behaviour, or breaks everything. */
const UNTOUCHED = new Set(['ThrowStatement', 'TemplateLiteral', 'ImportDeclaration', 'ExportAllDeclaration', 'ImportExpression']);
const OF_TYPES = new Set(['typeAnnotation', 'returnType', 'typeParameters', 'typeArguments', 'superTypeArguments', 'implements']);
const WITHOUT_TYPES = new Set(['TSAsExpression', 'TSNonNullExpression', 'TSSatisfiesExpression']);
const FUNCTIONS = new Set(['ArrowFunctionExpression', 'FunctionExpression', 'FunctionDeclaration']);

const isNode = (value: unknown): value is Node => typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string';
const nodesOf = (value: unknown): readonly Node[] => (Array.isArray(value) ? value.filter(isNode) : isNode(value) ? [value] : []);
/** `f` of `f(…)` and `a.f(…)`. */
const calledBy = (node: Node): string => {
  const callee = node['callee'] as Node;
  const name = callee.type === 'MemberExpression' ? (callee['property'] as Node) : callee;
  return String(name['name'] ?? '');
};

export function candidatesOf(source: string): readonly Candidate[] {
  const found: Candidate[] = [];
  const program = parseAst(source, { lang: 'ts' }) as unknown as Node;
  const textOf = ({ start, end }: Node): string => source.slice(start, end);
  const add = (operator: Operator, { start, end }: Node, text: string): void => {
    found.push({ operator, start, end, text });
  };
  const visit = (node: Node, place: Place): void => {
    if (UNTOUCHED.has(node.type) || (node.type.startsWith('TS') && !WITHOUT_TYPES.has(node.type))) return;
    if (node.type === 'CallExpression' && calledBy(node) === 'assert') return;
    look(node, place, textOf, add);
    const inFunction = place.inFunction || FUNCTIONS.has(node.type);
    const inChain = node.type === 'ChainExpression' || (place.inChain && ['CallExpression', 'MemberExpression', 'TSNonNullExpression'].includes(node.type));
    for (const [key, value] of Object.entries(node)) {
      if (OF_TYPES.has(key) || (key === 'key' && node['computed'] !== true)) continue;
      const isLink = key === 'callee' || key === 'object' || key === 'expression';
      for (const child of nodesOf(value)) visit(child, { inFunction, inChain: inChain && isLink, parent: node });
    }
  };
  visit(program, { inFunction: false, inChain: false, parent: program });
  return found;
}

type Add = (operator: Operator, node: Node, text: string) => void;

function look(node: Node, { inFunction, inChain, parent }: Place, textOf: (node: Node) => string, add: Add): void {
  switch (node.type) {
    case 'IfStatement':
    case 'ConditionalExpression': {
      const test = node['test'] as Node;
      add('condition negated', test, `!(${textOf(test)})`);
      break;
    }
    case 'WhileStatement':
    case 'ForStatement': {
      const test = node['test'];
      if (isNode(test)) add('loop left out', test, 'false');
      break;
    }
    case 'BinaryExpression':
    case 'LogicalExpression':
      lookAtOperation(node, textOf, add);
      break;
    case 'CallExpression':
      if (!inChain) lookAtCall(node, textOf, add);
      break;
    case 'Literal':
      if (inFunction) lookAtLiteral(node, add);
      break;
    case 'ExpressionStatement': {
      const expression = node['expression'] as Node;
      const isSuper = expression.type === 'CallExpression' && (expression['callee'] as Node).type === 'Super';
      const isAssertion = expression.type === 'CallExpression' && calledBy(expression) === 'assert';
      if (expression.type !== 'Literal' && !isSuper && !isAssertion) add('statement removed', node, ';');
      break;
    }
    case 'ContinueStatement':
    case 'BreakStatement':
      add('statement removed', node, ';');
      break;
    case 'ReturnStatement':
      if (node['argument'] === null) add('statement removed', node, ';');
      break;
    case 'ArrayExpression': {
      const isActions = parent.type === 'Property' && ['actions', 'entry', 'exit'].includes(String((parent['key'] as Node)['name']));
      if (isActions) for (const element of nodesOf(node['elements'])) add('action removed', element, '...[]');
    }
  }
}

function lookAtOperation(node: Node, textOf: (node: Node) => string, add: Add): void {
  const [left, right, operator] = [textOf(node['left'] as Node), textOf(node['right'] as Node), String(node['operator'])];
  // What is in brackets stays there.
  const text = textOf(node);
  const [before, after] = [text.slice(0, (node['left'] as Node).end - node.start), text.slice((node['right'] as Node).start - node.start)];
  const between = text.slice(before.length, text.length - after.length);
  const turned = (to: string): string => `${before}${between.replace(operator, to)}${after}`;
  if (operator in BOUNDARIES) add('boundary moved', node, turned(BOUNDARIES[operator] as string));
  if (operator in COMPARISONS) add('comparison turned', node, turned(COMPARISONS[operator] as string));
  if (operator in ARITHMETIC) add('arithmetic turned', node, turned(ARITHMETIC[operator] as string));
  if (operator === '&&') add('&& and || exchanged', node, `(${left}) || (${right})`);
  if (operator === '||') add('&& and || exchanged', node, `(${left}) && (${right})`);
  if (operator === '??') add('?? always its right side', node, right);
}

const EXCHANGED: Readonly<Record<string, readonly [operator: Operator, name: string]>> = {
  min: ['least and most exchanged', 'max'],
  max: ['least and most exchanged', 'min'],
  some: ['some and every exchanged', 'every'],
  every: ['some and every exchanged', 'some'],
};

function lookAtCall(node: Node, textOf: (node: Node) => string, add: Add): void {
  const [callee, given] = [node['callee'] as Node, nodesOf(node['arguments'])];
  const exchanged = callee.type === 'MemberExpression' ? EXCHANGED[calledBy(node)] : undefined;
  const name = callee['property'] as Node;
  if (exchanged !== undefined) {
    const text = textOf(node);
    add(exchanged[0], node, `${text.slice(0, name.start - node.start)}${exchanged[1]}${text.slice(name.end - node.start)}`);
    return;
  }
  for (const [index, first] of given.slice(0, -1).entries()) {
    const second = given[index + 1] as Node;
    const isPlain = ({ type }: Node): boolean => ['Identifier', 'MemberExpression', 'CallExpression', 'BinaryExpression'].includes(type);
    if (!isPlain(first) || !isPlain(second) || textOf(first) === textOf(second)) continue;
    const others = given.map((argument) => textOf(argument));
    others.splice(index, 2, textOf(second), textOf(first));
    add('arguments exchanged', node, `${textOf(callee)}(${others.join(', ')})`);
  }
}

function lookAtLiteral(node: Node, add: Add): void {
  const { value } = node;
  if (typeof value === 'boolean') add('boolean turned', node, String(!value));
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) return;
  add('number off by one', node, String(value + 1));
  if (value > 0) add('number off by one', node, String(value - 1));
}
