package fedmeter.client;

import io.grpc.Status;
import java.util.EnumSet;
import java.util.Random;
import java.util.Set;
import java.util.logging.Logger;

/**
 * Pauses that grow and are jittered, from nothing to a limit that doubles ("full jitter", M. Brooker, "Exponential
 * Backoff And Jitter", 2015), so that a fleet does not come back in one moment; bounded in sum.
 */
final class BackOff {
    static final double FIRST_PAUSE_S = 0.2;
    static final double LONGEST_PAUSE_S = 5.0;

    private static final Logger LOG = Logger.getLogger("fedmeter");
    private static final long LONGEST_LEAVE_S = 24 * 3600;
    /** Trouble on the way, or a stale connection of ours that the server has yet to notice. Others are its no. */
    private static final Set<Status.Code> PASSING = EnumSet.of(Status.Code.OK, Status.Code.UNAVAILABLE,
            Status.Code.ALREADY_EXISTS, Status.Code.CANCELLED, Status.Code.INTERNAL, Status.Code.UNKNOWN,
            Status.Code.DEADLINE_EXCEEDED, Status.Code.RESOURCE_EXHAUSTED);

    /** How to sleep: a test does not. */
    interface Sleeper {
        void sleep(double seconds) throws InterruptedException;
    }

    private final double maxWaitS;
    private final Clock clock;
    private final Random random;
    private final Sleeper sleeper;
    private long sinceNs;
    private double longestS;

    BackOff(double maxWaitS, Clock clock, Random random, Sleeper sleeper) {
        this.maxWaitS = maxWaitS;
        this.clock = clock;
        this.random = random;
        this.sleeper = sleeper;
        reset();
    }

    /** There is a server. */
    void reset() {
        sinceNs = clock.nanos();
        longestS = FIRST_PAUSE_S;
    }

    /** The server said when to come again. */
    void leave(long seconds) throws InterruptedException {
        sleeper.sleep(Math.min(seconds, LONGEST_LEAVE_S));
        reset();
    }

    /** Waits a little. Throws Precondition where the time is up, Refused where waiting cannot help. */
    void pause(String address, Status ended) throws InterruptedException {
        String what = ended.isOk() ? "the server ended the connection" : explain(ended);
        if (!PASSING.contains(ended.getCode())) {
            throw new FedmeterException.Refused(address + ": the server refused this client: " + what + ".");
        }
        double waitedS = (clock.nanos() - sinceNs) / 1e9;
        double pauseS = random.nextDouble() * longestS;
        if (waitedS + pauseS > maxWaitS) {
            throw new FedmeterException.Precondition(
                    String.format(java.util.Locale.ROOT, "%s: no server for %.1f s: %s.", address, waitedS, what),
                    "Start the server first, check address and port, or wait longer.");
        }
        LOG.info(address + ": " + what + "; trying again");
        sleeper.sleep(pauseS);
        longestS = Math.min(LONGEST_PAUSE_S, 2 * longestS);
    }

    private static String explain(Status ended) {
        Throwable cause = ended.getCause();
        String why = cause == null ? "" : " (" + cause.getMessage() + ")";
        return ended.getCode() + ": " + ended.getDescription() + why;
    }
}
