export { becomes } from '../../test/becomes.ts';
