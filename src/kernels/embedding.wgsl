// y[n, i] and y[n, half + i] = sin and cos of 2π·t[n]·w[i] (in the order `cos_first` says), i < half; column 2·half,
// where `columns` has it, = 0. Absolute error below 5e-7 for |t·w| < 2²² turns.
//
// The angle is kept in turns. t and w are cut by bit masks into a part of 12 significant bits and the rest, so that
// the four partial products are exact in f32, and from each its nearest quarter turn is taken away exactly; only
// then are they added. Nothing here changes when the compiler contracts a·b + c, for a·b is exact.
// Constants: E, w's element: f32, or vec2<f32> (the value is the sum of both). embedding.ts appends
// `fn pair(e: E) -> vec2<f32>`. Grid: one invocation a pair (n, i), and one a row for a last column.
struct Params { count: u32, half: u32, columns: u32, cos_first: u32 }
@group(0) @binding(0) var<storage, read> t: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<E>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

fn head(v: f32) -> f32 { return bitcast<f32>(bitcast<u32>(v) & 0xfffff000u); }

/// p = whole number + k/4 + r in turns, |r| <= 1/8: r and k, both exact.
fn eighths(p: f32) -> vec2<f32> {
  let f = p - round(p);
  let k = round(4.0 * f);
  return vec2(f - 0.25 * k, k);
}

// Taylor polynomials; |a| <= π/4 + a little. The next terms are below 2e-9 (sin) and 2e-10 (cos).
fn sine(a: f32) -> f32 {
  let s = a * a;
  return a + a * s * (-1.6666667e-1 + s * (8.3333333e-3 + s * (-1.9841270e-4 + s * 2.7557319e-6)));
}
fn cosine(a: f32) -> f32 {
  let s = a * a;
  return 1.0 + s * (-0.5 + s * (4.1666667e-2 + s * (-1.3888889e-3 + s * (2.4801587e-5 - s * 2.7557319e-7))));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let invocation = id.x + id.y * groups.x * 64u;
  if (invocation >= params.count) { return; }
  // columns − half invocations a row: half, or half + 1 with a column of zeros.
  let width = params.columns - params.half;
  let n = invocation / width;
  let i = invocation - n * width;
  let row = n * params.columns;
  if (i == params.half) {
    y[row + 2u * params.half] = 0.0;
    return;
  }
  let value = t[n];
  let factor = pair(w[i]);
  let th = head(value);
  let tl = value - th;
  let wh = head(factor.x);
  let wl = factor.x - wh;
  // Every product is reduced before the sum, which then stays small and loses less than 2^-24 turns.
  let small = eighths(tl * wl) + eighths(value * factor.y);
  let parts = eighths(th * wh) + ((eighths(th * wl) + eighths(tl * wh)) + small);
  let k4 = round(4.0 * parts.x);
  let angle = 6.2831853 * (parts.x - 0.25 * k4);
  let quadrant = u32(i32(parts.y + k4) + 64) & 3u;
  let s = sine(angle);
  let c = cosine(angle);
  let swapped = (quadrant & 1u) == 1u;
  let sin_ = select(select(s, c, swapped), -select(s, c, swapped), quadrant >= 2u);
  let cos_ = select(select(c, s, swapped), -select(c, s, swapped), quadrant == 1u || quadrant == 2u);
  let cos_first = params.cos_first == 1u;
  y[row + i] = select(sin_, cos_, cos_first);
  y[row + params.half + i] = select(cos_, sin_, cos_first);
}
