// Work shared out among threads. What each piece computes does not depend on who computes it.

import CSupport

/// The most threads a call may use.
func threadLimit() -> Int {
    var limit = support_load(support_threads())
    if limit == 0 {
        limit = threadsAtLoad()
        support_store(support_threads(), limit)
    }
    return Int(limit)
}

func setThreadLimit(_ count: Int32) {
    support_store(support_threads(), count < 1 ? threadsAtLoad() : count)
}

private func threadsAtLoad() -> Int32 {
    let name: StaticString = "SWIFTMAX_NUM_THREADS"
    let wanted: Int32 = if let value = getenv(cString(name)) { atoi(value) } else { 0 }
    return wanted > 0 ? wanted : support_processors()
}

/// Scratch memory and a floating-point environment of its own, for as long as `body` runs. False without memory.
@inline(__always)
func withScratch(_ body: (UnsafeMutableRawPointer) -> Void) -> Bool {
    guard let scratch = support_scratch(Work.scratchBytes) else { return false }
    let saved = support_enter_float_environment()
    body(scratch)
    support_leave_float_environment(saved)
    return true
}

/// What the threads of one call share: as many parts as there are threads, one after another.
///
/// A thread begins with a part of its own, so that it finds in its caches what it left there in the call before, and then takes what
/// is left of the others'.
private struct Shared {
    let path: Path
    let work: UnsafePointer<Work>
    let units: Int
    let parts: Int
    /// Units taken at a time.
    let grain: Int
    /// The next unit of each part, a line apart.
    let next: UnsafeMutableRawPointer

    /// Where there are more threads, some begin with the same part.
    static var mostParts: Int { Work.counterBytes / 64 }

    func start(_ part: Int) -> Int { units &* part / parts }

    func counter(_ part: Int) -> UnsafeMutablePointer<Int64> {
        (next + part &* 64).assumingMemoryBound(to: Int64.self)
    }

    /// With the scratch of the thread that takes them. One without memory leaves its share to the others.
    static func takePieces(_ shared: UnsafeMutableRawPointer?, from part: Int) {
        let shared = shared.unsafelyUnwrapped.assumingMemoryBound(to: Shared.self)
        _ = withScratch { shared.pointee.takePieces(from: part, $0) }
    }

    func takePieces(from own: Int, _ scratch: UnsafeMutableRawPointer) {
        for turn in 0..<parts {
            let part = (own &+ turn) % parts
            let end = start(part &+ 1)
            while true {
                let first = Int(support_fetch_add(counter(part), Int64(grain)))
                if first >= end { break }
                path.run(work, first, min(first &+ grain, end), scratch)
            }
        }
    }
}

/// Runs a path over 0..<units in pieces, on as many threads as the work is worth; `scratch` is the calling thread's.
func share(
    _ path: Path, _ work: UnsafePointer<Work>, _ units: Int, elements: Int,
    _ scratch: UnsafeMutableRawPointer
) {
    let threads = min(units, threadsWorth(elements))
    if threads <= 1 {
        path.run(work, 0, units, scratch)
        return
    }
    // Several pieces for each thread, so that one that starts late or is interrupted holds up no other.
    let grain = max(1, units / (threads &* 8))
    var shared = Shared(
        path: path, work: work, units: units, parts: min(threads, Shared.mostParts), grain: grain,
        next: Work.Packs(scratch: scratch).counters)
    for part in 0..<shared.parts { shared.counter(part).pointee = Int64(shared.start(part)) }
    withUnsafeMutablePointer(to: &shared) { shared in
        let crew = support_crew_of_process().unsafelyUnwrapped
        if support_exchange(&crew.pointee.is_taken, 1) == 0 {
            crew.share(shared, threads &- 1, scratch)
            support_store(&crew.pointee.is_taken, 0)
            return
        }
        // The crew helps another thread's call. With so much to do nobody is to wait.
        support_store(&crew.pointee.is_crowded, 1)
        support_apply(threads, shared) { shared, index in Shared.takePieces(shared, from: index) }
        shared.pointee.takePieces(from: 0, scratch)
    }
}

// MARK: The crew

extension UnsafeMutablePointer<support_crew> {
    /// Takes all pieces, with up to so many helpers.
    @_optimize(size)
    fileprivate func share(
        _ shared: UnsafeMutablePointer<Shared>, _ helpers: Int, _ scratch: UnsafeMutableRawPointer
    ) {
        let helpers = Int32(helpers)
        pointee.shared = UnsafeMutableRawPointer(shared)
        support_store(&pointee.done, 0)
        support_store(&pointee.is_crowded, 0)
        let missing =
            min(helpers, max(1, pointee.most)) &- support_load(&pointee.waiting)
            &- support_load(&pointee.coming)
        support_store(&pointee.seats, helpers)
        for _ in 0..<max(0, missing) {
            support_add(&pointee.coming, 1)
            support_async { _ in support_crew_of_process().unsafelyUnwrapped.help() }
        }
        shared.pointee.takePieces(from: 0, scratch)
        // Nobody joins any more; those who did must not be left with memory that is gone.
        let joined = helpers &- support_exchange(&pointee.seats, 0)
        var looks = 0
        while support_load(&pointee.done) < joined {
            looks &+= 1
            if looks < 1000 { support_pause() } else { support_yield() }
        }
    }

    /// What a helper does: its part of every call that comes soon enough.
    @_optimize(size)
    private func help() {
        // The part it begins with: of every call the same, and mostly none of another helper.
        let own = Int(support_add(&pointee.waiting, 1))
        support_add(&pointee.coming, -1)
        var end = support_now() &+ patience
        while support_now() < end && support_exchange(&pointee.is_crowded, 0) == 0 {
            for _ in 0..<16 {
                if support_take(&pointee.seats) {
                    support_add(&pointee.waiting, -1)
                    Shared.takePieces(pointee.shared, from: own)
                    support_add(&pointee.done, 1)
                    support_add(&pointee.waiting, 1)
                    end = support_now() &+ patience
                }
                support_pause()
            }
        }
        support_add(&pointee.waiting, -1)
    }
}

/// Nanoseconds that a helper waits for the next call.
private var patience: Int64 { 200_000 }

/// How many threads so many elements are worth.
func threadsWorth(_ elements: Int) -> Int { min(threadLimit(), elements / elementsPerThread) }

/// Below this many elements for each, a further thread costs more than it gains.
var elementsPerThread: Int { 32768 }
