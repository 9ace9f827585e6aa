/**
 * How an attack is asked for in text: NAME[:KEY=VALUE…][@SURFACE[:KEY=VALUE…]], such as
 * `pgd:loss=margin:eot=4@unroll:last=10`. What stands behind the name are settings of the attack, behind the surface
 * those of what it asks.
 */
import { InputError } from '../engine/errors.ts';

export type OptionTexts = Readonly<Record<string, string>>;

export interface AttackSpec {
  readonly name: string;
  readonly options: OptionTexts;
  readonly surface: string | undefined;
  readonly surfaceOptions: OptionTexts;
}

/** @throws InputError */
export function parseSpec(text: string): AttackSpec {
  const [own = '', asked, ...more] = text.split('@');
  if (more.length > 0) throw new InputError(`attack "${text}": more than one @; write NAME@SURFACE`);
  const part = (piece: string) => {
    const [name = '', ...pairs] = piece.split(':');
    const options: Record<string, string> = {};
    for (const pair of pairs) {
      const [, key, value] = /^([\w-]+)=(.+)$/.exec(pair) ?? [];
      if (key === undefined || value === undefined)
        throw new InputError(`attack "${text}": "${pair}" is not KEY=VALUE`);
      if (key in options) throw new InputError(`attack "${text}": ${key} is given twice`);
      options[key] = value;
    }
    return { name, options };
  };
  const { name, options } = part(own);
  const surface = asked === undefined ? undefined : part(asked);
  return { name, options, surface: surface?.name, surfaceOptions: surface?.options ?? {} };
}

/** What of a specification follows its name: to ask another attack of the same surface. */
export const surfaceOf = (text: string) => (text.includes('@') ? text.slice(text.indexOf('@')) : '');

/** "8/255" or "0.03" -> a number, or NaN. */
export function rational(text: string): number {
  const parts = text.split('/').map((part) => (part.trim() === '' ? Number.NaN : Number(part)));
  if (parts.length > 2) return Number.NaN;
  const value = (parts[0] as number) / (parts[1] ?? 1);
  return Number.isFinite(value) ? value : Number.NaN;
}

/** The way back: "8/255" for a whole number of levels up to 1, else three digits. */
export function fraction(value: number): string {
  const levels = Math.round(255 * value);
  return Math.abs(255 * value - levels) < 1e-6 && levels > 0 && value <= 1
    ? `${levels}/255`
    : String(Number(value.toPrecision(3)));
}

/** Text -> a value. @throws InputError naming the key, the value and the rule */
export type Reader<T> = (text: string, key: string) => T;

const wrong = (key: string, rule: string, text: string) =>
  new InputError(`${key} must be ${rule}, got "${text}"`);

export const readCount: Reader<number> = (text, key) => {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw wrong(key, 'a positive integer', text);
  return value;
};

export const readPositive: Reader<number> = (text, key) => {
  const value = rational(text);
  if (!(value > 0)) throw wrong(key, 'a positive number', text);
  return value;
};

export const readOneOf =
  <T extends string>(...values: readonly T[]): Reader<T> =>
  (text, key) => {
    const found = values.find((value) => value === text);
    if (found === undefined) throw wrong(key, `one of ${values.join(', ')}`, text);
    return found;
  };

/**
 * The values of some options by their keys.
 * @param what whose options they are, for the message
 * @throws InputError for a key that is not there, or a value that its reader refuses
 */
export function readOptions(
  texts: OptionTexts,
  readers: Readonly<Record<string, Reader<unknown>>>,
  what: string,
): Record<string, unknown> {
  const keys = Object.keys(readers);
  return Object.fromEntries(
    Object.entries(texts).map(([key, text]) => {
      const reader = readers[key];
      if (!reader)
        throw new InputError(
          `${what} has no option "${key}"; ${keys.length > 0 ? `it has ${keys.join(', ')}` : 'it has none'}`,
        );
      try {
        return [key, reader(text, key)];
      } catch (error) {
        if (error instanceof InputError) throw new InputError(`${what}: ${error.message}`);
        throw error;
      }
    }),
  );
}
