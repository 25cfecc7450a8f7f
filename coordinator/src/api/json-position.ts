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
    at = spaceEnd(text, at);
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
      const { end, broken } = readString(text, at);
      if (broken) return end;
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
      const { end, broken } = char === '"' ? readString(text, at) : readWord(text, at);
      if (broken) return end;
      at = end;
      expecting = open.length === 0 ? 'end' : 'comma';
    }
  }
}

/** Where something ends, or cannot go on. */
interface Read {
  end: number;
  broken: boolean;
}

function spaceEnd(text: string, from: number): number {
  let at = from;
  while (at < text.length && ' \t\n\r'.includes(text[at])) at++;
  return at;
}

const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y;

/** The string that begins at `at`; broken at its first bad escape or control character, else where it never ends. A pattern for all of it would need memory for each character. */
function readString(text: string, at: number): Read {
  for (let i = at + 1; i < text.length; i++) {
    if (text[i] === '"') return { end: i + 1, broken: false };
    if (text[i] < ' ') return { end: i, broken: true };
    if (text[i] !== '\\') continue;
    ESCAPE.lastIndex = i;
    if (!ESCAPE.test(text)) return { end: i, broken: true };
    i = ESCAPE.lastIndex - 1;
  }
  return { end: text.length, broken: true };
}

const WORD = /(?:true|false|null)(?![\w])|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.+-])/y;

/** A number or a word; one that begins well is broken where it stops being one. */
function readWord(text: string, at: number): Read {
  WORD.lastIndex = at;
  if (WORD.test(text)) return { end: WORD.lastIndex, broken: false };
  for (const word of ['true', 'false', 'null']) {
    let same = 0;
    while (same < word.length && text[at + same] === word[same]) same++;
    if (same > 0) return { end: at + same, broken: true };
  }
  return { end: at, broken: true };
}
