/** How a chat template reads messages: what clients leave open is given to each template in the form that it takes. */
export interface TemplateReading {
  /** Every text that the template writes, or builds what it writes from. */
  readonly literals: readonly string[];
  /** Names under which it looks something up: `m.name`, `m['name']`, `m.get('name')`, `'name' in m`. */
  readonly fields: ReadonlySet<string>;
  /** It joins the arguments of a call with text, as DeepSeek's does: text is what they must be. Others take them apart or write them as JSON. */
  readonly joinsArguments: boolean;
  /** It takes content that is there for text, as GPT-OSS' does (`'content' in m`): nothing said must not be there. Others want to be told that it is none. */
  readonly contentIsText: boolean;
}

/** Of a syntax tree, its node of any kind. */
type Node = Readonly<Record<string, unknown>> & { readonly type?: string };

/** @param trees of the templates that a conversation may be written by */
export function templateReading(trees: readonly unknown[]): TemplateReading {
  const nodes = trees.flatMap((tree) => [...nodesOf(tree)]);
  const literals = nodes.filter(isLiteral).map(({ value }) => value as string);
  const lookups = nodes.map(lookupOf).filter((name) => name !== null);
  const isArguments = argumentsTest(nodes);
  return {
    literals,
    fields: new Set(lookups),
    joinsArguments: nodes.some((node) => isJoin(node) && [node.left, node.right].some(isArguments)),
    contentIsText: nodes.some((node) => presenceTest(node) === 'content') && !nodes.some(asksWhetherContentIsNone),
  };
}

function* nodesOf(node: unknown): Iterable<Node> {
  if (typeof node !== 'object' || node === null) return;
  yield node as Node;
  for (const child of node instanceof Map ? [...node].flat() : Object.values(node)) yield* nodesOf(child);
}

function isLiteral({ type }: Node): boolean {
  return type === 'StringLiteral';
}

function lookupOf(node: Node): string | null {
  return memberName(node) ?? gottenName(node) ?? presenceTest(node);
}

/** `m.name` or `m['name']` */
function memberName({ type, property, computed }: Node): string | null {
  if (type !== 'MemberExpression') return null;
  const { type: kind, value } = property as Node;
  return kind === (computed ? 'StringLiteral' : 'Identifier') ? (value as string) : null;
}

/** `m.get('name')` */
function gottenName({ type, callee, args }: Node): string | null {
  if (type !== 'CallExpression' || memberName(callee as Node) !== 'get') return null;
  const [first] = args as Node[];
  return first !== undefined && isLiteral(first) ? (first.value as string) : null;
}

/** `'name' in m` or `'name' not in m` */
function presenceTest(node: Node): string | null {
  if (node.type !== 'BinaryExpression' || !['in', 'not in'].includes(operatorOf(node))) return null;
  const left = node.left as Node;
  return isLiteral(left) ? (left.value as string) : null;
}

function asksWhetherContentIsNone({ type, operand, test }: Node): boolean {
  return type === 'TestExpression' && memberName(operand as Node) === 'content' && (test as Node).value === 'none';
}

function isJoin(node: Node): boolean {
  return node.type === 'BinaryExpression' && ['+', '~'].includes(operatorOf(node));
}

function operatorOf({ operator }: Node): string {
  return (operator as { value: string }).value;
}

/** Whether a node is the arguments of a call, or a variable that was set to them. */
function argumentsTest(nodes: readonly Node[]): (node: unknown) => boolean {
  const isMember = (node: unknown) => memberName(node as Node) === 'arguments';
  const variables = new Set(
    nodes.filter(({ type, value }) => type === 'Set' && isMember(value ?? {})).map(({ assignee }) => (assignee as Node).value),
  );
  return (node) => isMember(node) || ((node as Node).type === 'Identifier' && variables.has((node as Node).value));
}
