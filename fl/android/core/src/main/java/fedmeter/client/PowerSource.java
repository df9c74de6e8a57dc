package fedmeter.client;

/**
 * Something that tells the power that this device draws now: a battery gauge, say. Conversions to watts and the refusal
 * of a battery that charges are its own; it neither integrates nor sleeps.
 */
public interface PowerSource {
    /** Its name in the records, as {@code battery}. */
    String rail();

    /** What it covers, in the words of measurement.proto: {@code device}, {@code module}, {@code rail}, ... */
    String scope();

    /** How long it takes to show another value, in seconds: it is asked as often. */
    double minPeriodS();

    /** Relative error of a value, k = 2, as its data sheet has it. */
    double gainErr();

    /** The step between two values, in watts. */
    double resolutionW();

    /** Watts drawn from the source, now. Throws UnavailableException, which says why, where that is not known. */
    double powerW() throws UnavailableException;

    /** There is no value now, or none that could be trusted. */
    final class UnavailableException extends Exception {
        private static final long serialVersionUID = 1L;

        public UnavailableException(String why) {
            super(why);
        }
    }
}
