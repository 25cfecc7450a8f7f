/** Control characters but the end of a line and a tab. */
const CONTROL = /[^\P{Cc}\n\t]/gu;

/**
 * Text of others (a model, a server) as it may be written to this stream. A terminal obeys control characters: it could be renamed, or something be put on its
 * clipboard, so that it gets their pictures (U+2400 and following) instead. Files and pipes get what was said.
 */
export function visible(text: string, stream: { isTTY?: boolean }): string {
  return stream.isTTY ? text.replaceAll(CONTROL, pictureOf) : text;
}

/** Writes a result, which repeats what servers, files and clients say. Colours are no part of it. */
export function print(text: string, stream: NodeJS.WriteStream = process.stdout): void {
  stream.write(visible(text, stream));
}

function pictureOf(control: string): string {
  const code = control.charCodeAt(0);
  if (code === 0x7f) return '\u2421';
  return code < 0x20 ? String.fromCharCode(0x2400 + code) : '\ufffd';
}
