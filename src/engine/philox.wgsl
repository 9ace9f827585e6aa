// Philox 4x32-10, functions only; put before a kernel that draws random numbers. The reference is philox.ts.

// Upper 32 bits of a * b; WGSL has no 64-bit product, so from 16-bit halves. No sum below overflows.
fn multiply_high(a: u32, b: u32) -> u32 {
  let a0 = a & 0xffffu;
  let a1 = a >> 16u;
  let b0 = b & 0xffffu;
  let b1 = b >> 16u;
  let middle = a1 * b0 + ((a0 * b0) >> 16u);
  let cross = a0 * b1 + (middle & 0xffffu);
  return a1 * b1 + (middle >> 16u) + (cross >> 16u);
}

fn philox4x32(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
  var c = counter;
  var k = key;
  for (var round = 0u; round < 10u; round++) {
    let high0 = multiply_high(0xd2511f53u, c.x);
    let high1 = multiply_high(0xcd9e8d57u, c.z);
    c = vec4<u32>(high1 ^ c.y ^ k.x, 0xcd9e8d57u * c.z, high0 ^ c.w ^ k.y, 0xd2511f53u * c.x);
    k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}

// 24 bits, in [0, 1).
fn uniform_of(word: u32) -> f32 { return f32(word >> 8u) * 0x1p-24; }

// ln(u) for normal u > 0 to about 1 ulp: u = m 2^e with m in [1/sqrt 2, sqrt 2), then the series of
// ln((1+s)/(1-s)) in s = (m-1)/(m+1). WGSL's own log may be wrong by 5e-7 absolute near 1, where the radius below is the root of
// a number of that size.
fn accurate_log(u: f32) -> f32 {
  let bits = bitcast<u32>(u) + (0x3f800000u - 0x3f3504f3u);
  let e = f32(i32(bits >> 23u) - 127);
  let m = bitcast<f32>((bits & 0x007fffffu) + 0x3f3504f3u);
  let f = m - 1.0;
  let s = f / (2.0 + f);
  let z = s * s;
  let r = z * (0.66666662693 + z * (0.40000972152 + z * (0.28498786688 + z * 0.24279078841)));
  let h = 0.5 * f * f;
  return (s * (h + r) + e * 9.0580006145e-06) - h + f + e * 6.9313812256e-01;
}

// (cos, sin) of 2 pi turn, turn in [0, 1) with 24 bits: the quadrant is taken out exactly, the rest is a series on
// [-pi/4, pi/4]; both are within 1e-7.
fn cos_sin(turn: f32) -> vec2<f32> {
  let quarter = floor(turn * 4.0 + 0.5);
  let t = (turn * 4.0 - quarter) * 1.5707963267948966;
  let z = t * t;
  let c = 1.0 + z * (-0.5 + z * (0.04166664568 + z * (-0.00138873163 + z * 2.44331571e-5)));
  let s = t + t * z * (-0.16666654611 + z * (0.00833216087 + z * -0.00019515296));
  switch u32(quarter) & 3u {
    case 1u: { return vec2<f32>(-s, c); }
    case 2u: { return vec2<f32>(-c, -s); }
    case 3u: { return vec2<f32>(s, -c); }
    default: { return vec2<f32>(c, s); }
  }
}

// Two standard normal numbers from two words (Box and Muller). The radius takes all 32 bits: u in (2^-33, 1].
fn normals_of(a: u32, b: u32) -> vec2<f32> {
  let u = uniform_of(a) + (f32(a & 255u) + 0.5) * 0x1p-32;
  return sqrt(max(0.0, -2.0 * accurate_log(u))) * cos_sin(uniform_of(b));
}
