// As V8 has them, by measurement, each alone and rounded up.
/** An array or object with its place in another. */
const CONTAINER_BYTES = 64;
/** A key with its value, where no other object has the same keys. */
const KEY_BYTES = 128;
/** Another value: a place in an array, and a number with a fraction or a short string in it. */
const VALUE_BYTES = 32;

const [QUOTE, BACKSLASH, COMMA, COLON, BRACKET, BRACE] = Buffer.from('"\\,:[{');

/**
 * Bytes that the values of a JSON text take, about, besides the characters of its strings: arrays without anything in them take twenty times as much memory as text. Of what is no JSON it is
 * some number.
 */
export function jsonValueBytes(json: Buffer): number {
  let bytes = 0;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at];
    if (byte === QUOTE) at = stringEnd(json, at);
    else if (byte === COMMA) bytes += VALUE_BYTES;
    else if (byte === COLON) bytes += KEY_BYTES;
    else if (byte === BRACKET || byte === BRACE) bytes += CONTAINER_BYTES;
  }
  return bytes;
}

/** Position of the quote that ends the string which begins at `from`. */
function stringEnd(json: Buffer, from: number): number {
  for (let end = json.indexOf(QUOTE, from + 1); end >= 0; end = json.indexOf(QUOTE, end + 1)) {
    let before = end;
    while (json[before - 1] === BACKSLASH) before--;
    if ((end - before) % 2 === 0) return end;
  }
  return json.length;
}
