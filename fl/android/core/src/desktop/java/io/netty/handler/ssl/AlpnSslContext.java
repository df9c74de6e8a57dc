package io.netty.handler.ssl;

import javax.net.ssl.SSLContext;

/**
 * A client's TLS with ALPN by the JDK itself. Debian's netty 4.1.48 has the engine for it but cut the way there
 * ({@code JdkSslContext.toNegotiator}), so that gRPC, which does not go without ALPN, could speak no TLS. The engine is
 * of this package alone: that is why this class is here.
 */
@SuppressWarnings("deprecation") // of what netty keeps for its own use
public final class AlpnSslContext extends JdkSslContext {
    /** {@code context}: whom to trust and what to show. */
    public AlpnSslContext(SSLContext context, Iterable<String> ciphers) {
        super(context, true, ciphers, SupportedCipherSuiteFilter.INSTANCE, new H2(), ClientAuth.NONE, null, false);
    }

    private static final class H2 extends JdkBaseApplicationProtocolNegotiator {
        private H2() {
            super(new Wrapper(), FAIL_SELECTOR_FACTORY, FAIL_SELECTION_LISTENER_FACTORY, "h2");
        }
    }

    private static final class Wrapper implements JdkApplicationProtocolNegotiator.SslEngineWrapperFactory {
        @Override
        public javax.net.ssl.SSLEngine wrapSslEngine(
                javax.net.ssl.SSLEngine engine, JdkApplicationProtocolNegotiator negotiator, boolean isServer) {
            return new Java9SslEngine(engine, negotiator, isServer);
        }
    }
}
