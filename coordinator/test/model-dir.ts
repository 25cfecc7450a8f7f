import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The bundled model. */
export const modelDir = fileURLToPath(new URL('../../models/shunter-16m', import.meta.url));

/** A folder like the bundled model's, made for so many tokens as it says; null: it does not say. */
export function modelDirOfContext(tokens: number | null, folder: string): string {
  const dir = path.join(folder, `context-${tokens}`);
  mkdirSync(dir);
  for (const file of readdirSync(modelDir)) if (file !== 'config.json') symlinkSync(path.join(modelDir, file), path.join(dir, file));
  const config = JSON.parse(readFileSync(path.join(modelDir, 'config.json'), 'utf8'));
  // A family that takes no length for granted.
  const told =
    tokens === null ? { model_type: 'switchyard_smile_moe', max_position_embeddings: undefined } : { max_position_embeddings: tokens };
  writeFileSync(path.join(dir, 'config.json'), JSON.stringify({ ...config, ...told }));
  return dir;
}
