/** The diffusion defences by name, and their settings as text: `--set KEY=VALUE`. */
import type { Classifier } from '../cmap/vote.ts';
import { adp, adpDefaults } from '../defences/adp.ts';
import type { Defence } from '../defences/defence.ts';
import { consistencyDenoiser, type Denoiser, scoreDenoiser } from '../defences/denoiser.ts';
import { diffPure, diffPureDefaults } from '../defences/diffpure.ts';
import { gdmp, gdmpDefaults } from '../defences/gdmp.ts';
import { gns, gnsDefaults } from '../defences/gns.ts';
import { InputError } from '../engine/errors.ts';
import type { LoadedNetwork } from './networks.ts';

type Setting = number | string | readonly number[];
export type PurifierSettings = Readonly<Record<string, Setting>>;

interface Purifier {
  readonly defaults: PurifierSettings;
  make(denoiser: Denoiser, classifier: Classifier, settings: PurifierSettings): Defence;
}

/** @param make checks the ranges of settings, whose names and types are those of `defaults` */
const purifier = <S extends object>(
  defaults: S,
  make: (denoiser: Denoiser, classifier: Classifier, settings: S) => Defence,
): Purifier => ({
  defaults: defaults as unknown as PurifierSettings,
  make: (denoiser, classifier, settings) => make(denoiser, classifier, settings as unknown as S),
});

const purifiers = {
  diffpure: purifier(diffPureDefaults, diffPure),
  gdmp: purifier(gdmpDefaults, gdmp),
  adp: purifier(adpDefaults, adp),
  gns: purifier(gnsDefaults, gns),
} as const;

export type PurifierName = keyof typeof purifiers;
export const purifierNames = Object.keys(purifiers) as PurifierName[];
export const isPurifier = (name: string): name is PurifierName => Object.hasOwn(purifiers, name);

/** A line a defence: its settings with their defaults. */
export function purifierHelp(): string {
  return purifierNames
    .map((name) => {
      const settings = Object.entries(purifiers[name].defaults).map(([key, value]) => `${key}=${value}`);
      return `\n  ${name.padEnd(10)} ${settings.join(' ')}`;
    })
    .join('');
}

/**
 * The defaults with what was given. @param pairs KEY=VALUE each; a list is written 30,30,125
 * @throws InputError for a name that the defence does not have, or a value that is not of its type
 */
export function purifierSettings(name: PurifierName, pairs: readonly string[]): PurifierSettings {
  const { defaults } = purifiers[name];
  const settings: Record<string, Setting> = { ...defaults };
  const given = new Set<string>();
  for (const pair of pairs) {
    const at = pair.indexOf('=');
    if (at < 1) throw new InputError(`--set ${pair}: not KEY=VALUE, such as copies=1`);
    const [key, text] = [pair.slice(0, at), pair.slice(at + 1)];
    if (!Object.hasOwn(defaults, key))
      throw new InputError(
        `--set ${pair}: ${name} has no setting "${key}"; it has ${Object.keys(defaults).join(', ')}`,
      );
    if (given.has(key)) throw new InputError(`--set ${pair}: ${key} is given twice`);
    given.add(key);
    const usual = defaults[key] as Setting;
    const number = (part: string) => {
      const value = Number(part);
      if (part.trim() === '' || !Number.isFinite(value))
        throw new InputError(`--set ${pair}: "${part}" is not a number; the default is ${key}=${usual}`);
      return value;
    };
    if (typeof usual === 'string') settings[key] = text;
    else settings[key] = typeof usual === 'number' ? number(text) : text.split(',').map(number);
  }
  return settings;
}

/** @param edm the weights of a consistency network were trained as a denoiser @throws InputError */
export function denoiserOf(loaded: LoadedNetwork, name: string, edm: boolean): Denoiser {
  switch (loaded.kind) {
    case 'classifier':
      throw new InputError(
        `--model ${name}: is a classifier; a score network, an EDM denoiser or a consistency model is wanted`,
      );
    case 'consistency':
      return consistencyDenoiser(loaded.net, edm ? 'edm' : 'consistency');
    case 'score':
      if (edm)
        throw new InputError(`--edm: ${name} is a score network, whose scalings are its own; leave it out`);
      return scoreDenoiser(loaded.net);
  }
}

export function makePurifier(
  name: PurifierName,
  denoiser: Denoiser,
  classifier: Classifier,
  settings: PurifierSettings,
): Defence {
  return purifiers[name].make(denoiser, classifier, settings);
}
