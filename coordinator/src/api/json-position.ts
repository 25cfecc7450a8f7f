/**
 * Where a text stops being JSON (RFC 8259). JavaScript's parser says where only for some mistakes; this says it for all. Called only for text that does not
 * parse.
 *
 * @returns offset of the first character that cannot stand there, in UTF-16 units; the length when the text ends too early
 */
export function jsonErrorPosition(text: string): number {
  /** Closing brackets of what is open. */
  const open: string[] = [];
  let at = 0;
  let expecting: 'value' | 'value or ]' | 'key or }' | 'key' | 'colon' | 'comma' | 'end' = 'value';
  for (;;) {
    at = skip(SPACE, text, at);
    if (at >= text.length) return text.length;
    const char = text[at];
    if (expecting === 'end') return at;
    if (expecting === 'colon') {
      if (char !== ':') return at;
      at++;
      expecting = 'value';
    } else if (expecting === 'comma') {
      if (char === ',') expecting = open.at(-1) === '}' ? 'key' : 'value';
      else if (char === open.at(-1)) open.pop();
      else return at;
      at++;
      if (char !== ',') expecting = open.length === 0 ? 'end' : 'comma';
    } else if (expecting === 'key' || expecting === 'key or }') {
      if (char === '}' && expecting === 'key or }') {
        open.pop();
        at++;
        expecting = open.length === 0 ? 'end' : 'comma';
        continue;
      }
      if (char !== '"') return at;
      const end = skip(STRING, text, at);
      if (end === at) return stringErrorPosition(text, at);
      at = end;
      expecting = 'colon';
    } else if (char === '{' || char === '[') {
      open.push(char === '{' ? '}' : ']');
      at++;
      expecting = char === '{' ? 'key or }' : 'value or ]';
    } else if (char === ']' && expecting === 'value or ]') {
      open.pop();
      at++;
      expecting = open.length === 0 ? 'end' : 'comma';
    } else {
      const end = skip(SCALAR, text, at);
      if (end === at) return char === '"' ? stringErrorPosition(text, at) : wordErrorPosition(text, at);
      at = end;
      expecting = open.length === 0 ? 'end' : 'comma';
    }
  }
}

const SPACE = /[ \t\n\r]*/y;
const STRING_PATTERN = '"(?:[^"\\\\\\u0000-\\u001f]|\\\\(?:["\\\\/bfnrt]|u[0-9a-fA-F]{4}))*"';
const STRING = new RegExp(STRING_PATTERN, 'y');
const SCALAR = new RegExp(
  `${STRING_PATTERN}|(?:true|false|null)(?![\\w])|-?(?:0|[1-9]\\d*)(?:\\.\\d+)?(?:[eE][+-]?\\d+)?(?![\\w.+-])`,
  'y',
);

function skip(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : at;
}

/** The string that begins at `at` is broken: at its first bad escape or control character, else it never ends. */
function stringErrorPosition(text: string, at: number): number {
  for (let i = at + 1; i < text.length; i++) {
    if (text[i] < ' ') return i;
    if (text[i] !== '\\') continue;
    if (!/^\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/.test(text.slice(i, i + 6))) return i;
    i++;
  }
  return text.length;
}

/** A number or a word that begins well is wrong where it stops being one. */
function wordErrorPosition(text: string, at: number): number {
  for (const word of ['true', 'false', 'null']) {
    let same = 0;
    while (same < word.length && text[at + same] === word[same]) same++;
    if (same > 0) return at + same;
  }
  return at;
}
