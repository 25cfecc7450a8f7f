import { fileURLToPath } from 'node:url';

/** The bundled model. */
export const modelDir = fileURLToPath(new URL('../../models/shunter-16m', import.meta.url));
